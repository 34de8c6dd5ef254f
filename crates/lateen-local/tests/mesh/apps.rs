//! What runs in the pods: servers that say who was reached and how, and a stand-in for the proxy.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

/// `app KIND ARGUMENTS…`
pub(crate) fn main(arguments: &[String]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["echo", port] => serve(port.parse().unwrap(), "app", false),
        ["udp-echo", port] => udp_echo(port.parse().unwrap()),
        ["proxy"] => proxy(),
        ["call", address] => return report(call(address.parse().unwrap(), None)),
        ["call-marked", address] => return report(call(address.parse().unwrap(), Some(1339))),
        ["call-as", from, to] => {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            return report(patiently(|| call_as(from, to)));
        }
        ["health", port, file] => health(port.parse().unwrap(), file),
        ["exit", code] => return ExitCode::from(code.parse::<u8>().unwrap()),
        ["sleep"] => std::thread::sleep(Duration::from_secs(3600)),
        _ => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}

fn report(answer: std::io::Result<String>) -> ExitCode {
    match answer {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("error {error}");
            ExitCode::FAILURE
        }
    }
}

/// Answers each connection with one line and closes it.
fn serve(port: u16, who: &str, transparent: bool) {
    let name = std::env::var("HOSTNAME").unwrap_or_default();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_ip_transparent_v4(transparent).unwrap();
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    socket.bind(&address.into()).unwrap();
    socket.listen(16).unwrap();
    let listener = TcpListener::from(socket);
    for stream in listener.incoming().flatten() {
        let (local, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        let original = socket2::SockRef::from(&stream).original_dst_v4();
        let original = original
            .ok()
            .and_then(|a| a.as_socket())
            .map(|a| a.to_string());
        let original = original.unwrap_or_else(|| "none".to_owned());
        let mut stream = stream;
        let _ = writeln!(
            stream,
            "{who} pod={name} local={local} peer={} original={original}",
            peer.ip()
        );
    }
}

fn udp_echo(port: u16) {
    let name = std::env::var("HOSTNAME").unwrap_or_default();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    let mut buffer = [0; 512];
    while let Ok((_, from)) = socket.recv_from(&mut buffer) {
        let _ = socket.send_to(name.as_bytes(), from);
    }
}

/// The ports of a proxy: outbound, inbound, DNS, and "ready" on 15021.
fn proxy() {
    for (port, who) in [(15001, "outbound"), (15006, "inbound"), (15053, "dns")] {
        std::thread::spawn(move || serve(port, who, true));
    }
    http(15021, || true);
}

/// 200 while the file exists, else 503.
fn health(port: u16, file: &str) {
    let file = file.to_owned();
    http(port, move || std::path::Path::new(&file).exists());
}

fn http(port: u16, good: impl Fn() -> bool) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    for mut stream in listener.incoming().flatten() {
        let mut request = [0; 1024];
        let _ = stream.read(&mut request);
        let status = if good() {
            "200 OK"
        } else {
            "503 Service Unavailable"
        };
        let _ = write!(
            stream,
            "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
    }
}

/// Connects and gives the line that comes back. A server that does not listen yet is given a moment.
pub(crate) fn call(address: SocketAddr, mark: Option<u32>) -> std::io::Result<String> {
    patiently(|| call_once(address, mark))
}

/// Calls again while nobody listens: a pod without probes is ready before its application is.
fn patiently(call: impl Fn() -> std::io::Result<String>) -> std::io::Result<String> {
    for _ in 0..50 {
        match call() {
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {}
            other => return other,
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    call()
}

/// Connects and gives the line that comes back.
pub(crate) fn call_once(address: SocketAddr, mark: Option<u32>) -> std::io::Result<String> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        None,
    )?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    socket.connect_timeout(&address.into(), Duration::from_secs(2))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut answer = String::new();
    TcpStream::from(socket).read_to_string(&mut answer)?;
    Ok(answer)
}

/// Connects from somebody else's address, as a proxy with `interceptionMode: TPROXY` does.
fn call_as(from: SocketAddr, to: SocketAddr) -> std::io::Result<String> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_mark(1337)?;
    socket.set_ip_transparent_v4(true)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), Duration::from_secs(2))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut answer = String::new();
    TcpStream::from(socket).read_to_string(&mut answer)?;
    Ok(answer)
}

/// Asks a UDP server for its name.
pub(crate) fn call_udp(address: (IpAddr, u16)) -> std::io::Result<String> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.send_to(b"?", address)?;
    let mut buffer = [0; 512];
    let (length, _) = socket.recv_from(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
