//! Clients that behave badly, and a port that is taken.

use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;

use super::*;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

struct Server {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

async fn server(router: Router) -> Server {
    let listener = bind("--test", SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(serve(listener, router, shutdown.clone()));
    Server { address, shutdown, task }
}

fn hello() -> Router {
    Router::new().route("/", get(|| async { "hello" }))
}

async fn connected(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("it listens")
}

/// Reads until `end`, or everything.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    let mut bytes = [0; 1024];
    while end.is_empty() || !text.ends_with(end) {
        match stream.read(&mut bytes).await {
            Ok(0) | Err(_) => break,
            Ok(count) => text.push_str(&String::from_utf8_lossy(&bytes[..count])),
        }
    }
    text
}

#[tokio::test]
async fn a_port_in_use_is_one_line_that_names_flag_and_address() {
    let first = bind("--health-probe-bind-address", SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.expect("free");
    let address = first.local_addr().expect("it is bound");
    let error = bind("--health-probe-bind-address", address).await.expect_err("taken");
    assert_eq!(error.to_string(), format!("--health-probe-bind-address: cannot listen on {address}"));
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(cause.starts_with("Address already in use") && !cause.contains('\n'), "{cause}");
}

#[test]
fn only_every_interface_falls_back_to_ipv4_and_only_without_ipv6() {
    let lacks = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
    let every: SocketAddr = "[::]:8081".parse().expect("an address");
    for errno in [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL] {
        assert_eq!(without_ipv6(every, &lacks(errno)), Some("0.0.0.0:8081".parse().expect("an address")));
    }
    assert_eq!(without_ipv6(every, &lacks(Errno::ADDRINUSE)), None);
    for address in ["[::1]:8081", "0.0.0.0:8081", "192.0.2.1:8081"] {
        assert_eq!(without_ipv6(address.parse().expect("an address"), &lacks(Errno::ADDRNOTAVAIL)), None);
    }
}

#[tokio::test]
async fn a_connection_serves_several_requests() {
    let server = server(hello()).await;
    let mut stream = connected(server.address).await;
    for _ in 0..3 {
        stream.write_all(REQUEST).await.expect("open");
        assert!(read_until(&mut stream, "hello").await.starts_with("HTTP/1.1 200 OK"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_never_ends_is_cut_off() {
    let server = server(hello()).await;
    let mut stream = connected(server.address).await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n").await.expect("open");
    let started = tokio::time::Instant::now();
    let answer = read_until(&mut stream, "").await;
    assert!(!answer.contains("200"), "{answer}");
    let cut_off_after = started.elapsed();
    assert!(cut_off_after <= HEAD_LIMIT + Duration::from_secs(1), "{cut_off_after:?}");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let server = server(hello()).await;
    let mut stream = connected(server.address).await;
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(2 * HEAD_BYTES));
    // The server may close before it has read everything.
    let _ = stream.write_all(head.as_bytes()).await;
    let answer = read_until(&mut stream, "").await;
    assert!(!answer.contains("200 OK"), "{answer}");
}

#[tokio::test]
async fn silent_clients_up_to_the_limit_do_not_keep_others_out_for_long() {
    tokio::time::pause();
    let server = server(hello()).await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        silent.push(connected(server.address).await);
    }
    let mut stream = connected(server.address).await;
    stream.write_all(REQUEST).await.expect("open");
    let answer = tokio::time::timeout(HEAD_LIMIT * 2, read_until(&mut stream, "hello")).await;
    assert!(answer.expect("a place is free again").starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test(start_paused = true)]
async fn an_endless_answer_ends_with_the_lifetime_of_its_connection() {
    let server = server(Router::new().route("/", get(std::future::pending::<&'static str>))).await;
    let mut stream = connected(server.address).await;
    stream.write_all(REQUEST).await.expect("open");
    let started = tokio::time::Instant::now();
    assert_eq!(read_until(&mut stream, "").await, "");
    assert!(started.elapsed() <= CONNECTION_LIFETIME + DRAIN_LIMIT + Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
async fn shutdown_finishes_the_request_and_ends_idle_connections() {
    let entered = Arc::new(tokio::sync::Notify::new());
    let told = Arc::clone(&entered);
    let slow = move || {
        told.notify_one();
        async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            "hello"
        }
    };
    let server = server(Router::new().route("/", get(slow))).await;
    let mut idle = connected(server.address).await;
    let mut busy = connected(server.address).await;
    busy.write_all(REQUEST).await.expect("open");
    entered.notified().await;
    server.shutdown.cancel();
    assert!(read_until(&mut busy, "hello").await.starts_with("HTTP/1.1 200 OK"));
    assert_eq!(read_until(&mut idle, "").await, "");
    let ended = tokio::time::timeout(DRAIN_LIMIT * 2, server.task).await;
    ended.expect("the server ends").expect("without a panic");
    TcpStream::connect(server.address).await.expect_err("nobody listens any more");
}
