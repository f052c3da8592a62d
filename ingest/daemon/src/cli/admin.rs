//! Asks a running daemon on this machine, at its `admin.listen`.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Status and body of a request without one of its own.
///
/// # Errors
/// Nobody answers within `within`, or what answers is no HTTP.
pub fn ask(admin: SocketAddr, method: &str, path: &str, within: Duration) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&admin, within)?;
    stream.set_read_timeout(Some(within))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {admin}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(1 << 20).read_to_string(&mut answer)?;
    let no_http = || io::Error::new(io::ErrorKind::InvalidData, "what answers there is no HTTP");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(no_http)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(no_http)?;
    Ok((status, body.to_owned()))
}
