//! The two kinds of authentication of a registry: basic authentication, and bearer tokens from another
//! address, to which the challenge points.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

use super::http::Request;
use super::reply::Reply;

/// The credentials that the registry asks for; none at all by default.
#[derive(Clone, Debug, Default)]
pub struct Auth {
    /// A user's name and password. With a bearer token, `/token` asks for them, and otherwise the
    /// registry itself.
    pub basic: Option<(String, String)>,
    /// The bearer token that the registry requires, and that `/token` returns.
    pub bearer: Option<String>,
    /// A refresh token that `/token` accepts instead of a user's name and password. It must not have
    /// characters that a form has to escape.
    pub refresh_token: Option<String>,
}

impl Auth {
    /// Refuses a request to the registry at `address`, unless it has the credentials.
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
            let secret = BASE64.encode(format!("{user}:{password}"));
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
