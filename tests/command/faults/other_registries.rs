//! Registries that are not there, or are not what was asked for.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::{fs, thread};

use super::cell::{Cell, Guard};
use crate::harness::Longshore;
use test_support::tools::{self, succeed};

/// The same pull of another image.
fn of(cell: &Cell, reference: &str, tls: &str) -> Longshore {
    let pull = cell.scratch.longshore();
    let skopeo = cell.skopeo.path.to_str().unwrap();
    pull.args(["pull", "--skopeo", skopeo])
        .args([reference, &cell.layout.tagged("v1")])
        .arg(tls)
}

/// No server listens at that address.
pub(crate) fn refused(cell: &Cell, _: Longshore) -> (Longshore, Guard) {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let reference = format!("docker://{}/a/b:c", gone.local_addr().unwrap());
    drop(gone);
    let tls = "--tls-verify=false";
    (of(cell, &reference, tls), Box::new(()))
}

/// The name does not exist (RFC 6761: `.invalid`). A name server of this test says so, because no real one
/// may be asked.
pub(crate) fn no_such_name(cell: &Cell, _: Longshore) -> (Longshore, Guard) {
    static NAME_SERVER: Once = Once::new();
    // glibc and Go support no port other than 53, so the name server has an address of its own.
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 64 | a, b, c);
    NAME_SERVER.call_once(|| {
        let server = UdpSocket::bind((address, 53))
            .unwrap_or_else(|e| panic!("a name server at port 53 takes root: {e}"));
        thread::spawn(move || {
            let mut packet = [0; 512];
            loop {
                let (length, from) = server.recv_from(&mut packet).unwrap();
                // This turns the question into an answer without records (RFC 1035, 4.1.1).
                packet[2] |= 0x80;
                packet[3] = 0x83;
                let _ = server.send_to(&packet[..length], from);
            }
        });
    });
    let resolver = cell.scratch.path("resolv.conf");
    fs::write(&resolver, format!("nameserver {address}\n")).unwrap();
    let tls = "--tls-verify=false";
    let pull = of(cell, "docker://registry.invalid/a/b:c", tls);
    let script = r#"mount --bind "$0" /etc/resolv.conf && exec "$@""#;
    let under = ["--mount", "sh", "-c", script, resolver.to_str().unwrap()];
    (pull.under("unshare", under), Box::new(()))
}

/// The registry speaks plain HTTP.
pub(crate) fn plain_http(cell: &Cell, _: Longshore) -> (Longshore, Guard) {
    let tls = "--tls-verify=true";
    (of(cell, &cell.reference, tls), Box::new(()))
}

/// The certificate is self-signed.
pub(crate) fn self_signed(cell: &Cell, _: Longshore) -> (Longshore, Guard) {
    let (key, certificate) = (cell.scratch.path("key"), cell.scratch.path("certificate"));
    let openssl = tools::system("openssl");
    let mut make = Command::new(&openssl);
    make.args(["req", "-x509", "-nodes", "-newkey", "ec"])
        .args([
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-subj",
            "/CN=localhost",
        ])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate);
    succeed(&mut make);
    let mut server = Command::new(&openssl);
    server
        .args(["s_server", "-accept", "127.0.0.1:0", "-www", "-key"])
        .arg(key)
        .arg("-cert")
        .arg(certificate)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut server = Server(server.spawn().unwrap());
    let lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let mut accepting = lines.map_while(Result::ok);
    let address = accepting.find_map(|line| Some(line.strip_prefix("ACCEPT ")?.to_owned()));
    // The server goes on writing, and must not meet a closed pipe.
    thread::spawn(move || accepting.for_each(drop));
    let reference = format!("docker://{}/a/b:c", address.unwrap());
    let tls = "--tls-verify=true";
    (of(cell, &reference, tls), Box::new(server))
}

/// A server of this test. Dropping it kills it.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
