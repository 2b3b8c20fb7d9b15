//! The two ways in which a registry asks for credentials: basic authentication, and bearer tokens
//! that are handed out at another address, to which the challenge points.

use std::net::SocketAddr;

use serde_json::json;

use super::http::Request;
use super::reply::Reply;

/// The credentials that the registry asks for; none at all by default.
#[derive(Clone, Debug, Default)]
pub struct Auth {
    /// A user's name and password. With a bearer token, `/token` asks for them, otherwise the
    /// registry itself does.
    pub basic: Option<(String, String)>,
    /// The bearer token that the registry asks for, and that `/token` hands out.
    pub bearer: Option<String>,
    /// A refresh token that `/token` takes instead of a user's name and password. It must not
    /// have characters that a form has to escape.
    pub refresh_token: Option<String>,
}

impl Auth {
    /// The refusal of a request to the registry at `address`, unless it has the credentials.
    pub fn refusal(&self, request: &Request, address: SocketAddr) -> Option<Reply> {
        if let Some(token) = &self.bearer {
            let challenge = format!("Bearer realm=\"http://{address}/token\",service=\"test\"");
            let accepted = has_credentials(request, &format!("Bearer {token}"));
            return (!accepted).then(|| unauthorized(challenge));
        }
        (!self.has_password(request)).then(ask_for_password)
    }

    /// The answer to a request for a bearer token.
    pub fn token(&self, request: &Request) -> Reply {
        let Some(token) = &self.bearer else {
            return Reply::error(404, "UNSUPPORTED", "this registry has no tokens");
        };
        let accepted = match request.method.as_str() {
            "POST" => self.has_refresh_token(request),
            _ => self.has_password(request),
        };
        if !accepted {
            return ask_for_password();
        }
        Reply::json(200, &json!({"token": token, "access_token": token}))
    }

    fn has_password(&self, request: &Request) -> bool {
        self.basic.as_ref().is_none_or(|(user, password)| {
            let secret = base64(format!("{user}:{password}").as_bytes());
            has_credentials(request, &format!("Basic {secret}"))
        })
    }

    fn has_refresh_token(&self, request: &Request) -> bool {
        let form = String::from_utf8_lossy(&request.body);
        let field = |wanted| {
            form.split('&')
                .filter_map(|field| field.split_once('='))
                .find_map(|(name, value)| (name == wanted).then_some(value))
        };
        self.refresh_token.is_some()
            && field("grant_type") == Some("refresh_token")
            && field("refresh_token") == self.refresh_token.as_deref()
    }
}

fn has_credentials(request: &Request, wanted: &str) -> bool {
    request.header("authorization") == Some(wanted)
}

fn ask_for_password() -> Reply {
    unauthorized("Basic realm=\"test\"".to_owned())
}

fn unauthorized(challenge: String) -> Reply {
    Reply::error(401, "UNAUTHORIZED", "authentication required")
        .with_header("WWW-Authenticate", challenge)
}

/// Encodes bytes in base64, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            let is_padding = place > group.len();
            text.push(if is_padding { '=' } else { char::from(digit) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_as_in_rfc_4648() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
