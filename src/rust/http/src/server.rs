//! Listening, the limits on connections, and what one connection is: TLS or not, HTTP/1 behind the gate or HTTP/2.

use std::collections::HashMap;
use std::future::{poll_fn, Future};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::pin::{pin, Pin};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout, Instant};
use tokio_rustls::rustls::pki_types::{pem::PemObject, CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::gate::{Gate, Wire};
use crate::socket::{set_option, Socket};
use crate::{service, Callbacks, Limits};

#[derive(Default)]
pub struct Counters {
    pub accepted: AtomicU64,
    pub refused: AtomicU64,
    pub requests: AtomicU64,
    pub broken: AtomicU64,
    pub stalled: Arc<AtomicU64>,
    pub bodies: AtomicU64, // bytes
    pub next_id: AtomicU64,
}

#[derive(Default)]
struct Open {
    listeners: u64,
    all: u64,
    by_address: HashMap<IpAddr, u64>,
}

pub struct Server {
    pub limits: Arc<Limits>,
    pub callbacks: Callbacks,
    pub counters: Counters,
    pub stop: CancellationToken, // connections end with their answer
    pub door: CancellationToken, // no new connections
    pub cut: CancellationToken,  // everything ends
    tls: RwLock<Option<Arc<ServerConfig>>>,
    open: Mutex<Open>,
    closed: Condvar,
}

pub struct Connection {
    pub server: Arc<Server>,
    pub peer: String,
    pub tls: bool,
    pub wire: Option<Arc<Wire>>, // of HTTP/1
    pub cut: CancellationToken,
    end: CancellationToken, // when it may hear no second request
    answers: AtomicUsize,
    last: Mutex<(Instant, bool)>, // when the last answer ended, and whether there was one
}

impl Connection {
    pub fn opened(&self) {
        self.answers.fetch_add(1, Relaxed);
    }

    pub fn closed(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), true);
        self.answers.fetch_sub(1, Relaxed);
        if let Some(wire) = &self.wire {
            wire.done();
        }
    }

    fn was_asked(&self) -> bool {
        self.answers.load(Relaxed) > 0 || self.last.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    fn is_idle(&self) -> bool {
        let (since, used) = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let limits = &self.server.limits;
        self.answers.load(Relaxed) == 0 && since.elapsed() >= if used { limits.idle } else { limits.header }
    }
}

/// One connection of the limits' counts.
struct Ticket {
    server: Arc<Server>,
    address: Option<IpAddr>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut open = self.server.open();
        open.all -= 1;
        if let Some(address) = self.address {
            let count = open.by_address.entry(address).or_default();
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&address);
            }
        }
        self.server.closed.notify_all();
    }
}

/// Whom an address stands for: of IPv6, everybody has 64 bits of addresses. Loopback has no limit.
fn counted(address: IpAddr) -> Option<IpAddr> {
    match address.to_canonical() {
        address if address.is_loopback() => None,
        IpAddr::V6(six) => Some(IpAddr::V6((u128::from(six) >> 64 << 64).into())),
        four => Some(four),
    }
}

impl Server {
    pub fn new(limits: Limits, callbacks: Callbacks, tls: Option<Arc<ServerConfig>>) -> Self {
        let (stop, door, cut) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let (limits, counters, tls) = (Arc::new(limits), Counters::default(), RwLock::new(tls));
        Server { limits, callbacks, counters, stop, door, cut, tls, open: Mutex::default(), closed: Condvar::new() }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_tls(&self, tls: Arc<ServerConfig>) {
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = Some(tls);
    }

    pub fn connections(&self) -> u64 {
        self.open().all
    }

    /// Waits until there is no connection, and nothing that takes one; true if there was none left.
    pub fn wait(&self, time: Duration) -> bool {
        let open = self.closed.wait_timeout_while(self.open(), time, |open| open.all + open.listeners > 0);
        open.unwrap_or_else(PoisonError::into_inner).0.all == 0
    }

    fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Ticket> {
        let address = counted(address);
        let mut open = self.open();
        let full = open.all >= self.limits.max_connections
            || address.is_some_and(|a| open.by_address.get(&a).is_some_and(|n| *n >= self.limits.max_connections_per_address));
        (if full { &self.counters.refused } else { &self.counters.accepted }).fetch_add(1, Relaxed);
        if full {
            return None;
        }
        open.all += 1;
        if let Some(address) = address {
            *open.by_address.entry(address).or_default() += 1;
        }
        Some(Ticket { server: self.clone(), address })
    }

    pub fn accept(self: Arc<Self>, listener: TcpListener) -> impl Future<Output = ()> {
        self.open().listeners += 1; // before it begins: who closes waits for it
        async move {
            self.take_from(&listener).await;
            drop(listener);
            self.open().listeners -= 1;
            self.closed.notify_all();
        }
    }

    async fn take_from(self: &Arc<Self>, listener: &TcpListener) {
        while let Some(accepted) = self.door.run_until_cancelled(listener.accept()).await {
            // Else a crowd at the door keeps tokio from looking at those inside, who may long have left.
            tokio::task::yield_now().await;
            match accepted {
                Ok((stream, peer)) => {
                    if let Some(ticket) = self.admit(peer.ip()) {
                        let server = self.clone();
                        tokio::spawn(async move {
                            let cut = server.cut.child_token();
                            cut.run_until_cancelled(server.connection(stream, peer.ip().to_canonical(), &cut)).await;
                            drop(ticket); // last: who waits for it may count descriptors
                        });
                    }
                }
                // Mostly a lack of descriptors: the next connection that ends gives one back.
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn connection(self: &Arc<Self>, stream: TcpStream, peer: IpAddr, cut: &CancellationToken) {
        let tls = self.tls.read().unwrap_or_else(PoisonError::into_inner).clone();
        let wire = Arc::new(Wire::default());
        let last = Mutex::new((Instant::now(), false));
        // Who comes when others must go gets one answer: that the server is ending, as a rule.
        let end = if self.stop.is_cancelled() { self.door.clone() } else { self.stop.clone() };
        let make = |tls, wire| {
            let (server, peer, cut, answers) = (self.clone(), peer.to_string(), cut.clone(), AtomicUsize::new(0));
            Arc::new(Connection { server, peer, tls, wire, cut, end, answers, last })
        };
        let socket = Socket::new(stream, self.limits.write_stall, self.counters.stalled.clone());
        let Some(tls) = tls else {
            let mut gate = Gate::new(socket, wire.clone(), self.limits.clone());
            return match self.door.run_until_cancelled(timeout(self.limits.header, gate.speaks_two())).await {
                Some(Ok(Ok(true))) => self.two(make(false, None), gate).await,
                Some(Ok(Ok(false))) => self.one(make(false, Some(wire)), gate).await,
                _ => {}
            };
        };
        let handshake = timeout(self.limits.header, TlsAcceptor::from(tls).accept(socket));
        let Some(Ok(Ok(stream))) = self.door.run_until_cancelled(handshake).await else { return };
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            self.two(make(true, None), stream).await;
        } else {
            let gate = Gate::new(stream, wire.clone(), self.limits.clone());
            self.one(make(true, Some(wire)), gate).await;
        }
    }

    async fn one<S: AsyncRead + AsyncWrite + Unpin + Send>(&self, connection: Arc<Connection>, gate: Gate<S>) {
        let served = connection.clone();
        let future = http1::Builder::new()
            .max_headers(self.limits.max_headers)
            .max_buf_size(self.limits.max_header_bytes.max(32 << 10) * 2)
            .header_read_timeout(None)
            .writev(false)
            .serve_connection(TokioIo::new(gate), service_fn(move |request| service::serve(served.clone(), request)));
        self.drive(&connection, pin!(future), |future| future.graceful_shutdown()).await;
    }

    async fn two<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, connection: Arc<Connection>, stream: S) {
        let served = connection.clone();
        let future = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(100)
            .max_header_list_size(u32::try_from(self.limits.max_header_bytes).unwrap_or(u32::MAX))
            .max_send_buf_size(64 << 10)
            .keep_alive_interval(self.limits.write_stall)
            .keep_alive_timeout(self.limits.write_stall)
            .serve_connection(TokioIo::new(stream), service_fn(move |request| service::serve(served.clone(), request)));
        self.drive(&connection, pin!(future), |future| future.graceful_shutdown()).await;
    }

    /// Until the connection ends. HTTP/2's is told to end when nothing was asked for long, and is left when it does not obey; the gate
    /// does that for HTTP/1.
    async fn drive<F: Future>(&self, connection: &Connection, mut future: Pin<&mut F>, shut: impl Fn(Pin<&mut F>)) {
        let (mut end, mut door) = (pin!(connection.end.cancelled()), pin!(self.door.cancelled()));
        let step = (self.limits.idle.min(self.limits.header).min(self.limits.write_stall) / 4).max(Duration::from_millis(5));
        let mut tick = pin!(sleep(step));
        let mut closing: Option<Instant> = None;
        poll_fn(|cx| {
            // A first request may be on its way when others must go: it is answered.
            let ends = end.as_mut().poll(cx).is_ready() && connection.was_asked();
            if closing.is_none() && (ends || door.as_mut().poll(cx).is_ready()) {
                closing = Some(Instant::now());
                shut(future.as_mut());
            }
            while connection.wire.is_none() && tick.as_mut().poll(cx).is_ready() {
                tick.as_mut().reset(Instant::now() + step);
                match closing {
                    None if connection.is_idle() => {
                        closing = Some(Instant::now());
                        shut(future.as_mut());
                    }
                    Some(since) if connection.answers.load(Relaxed) == 0 && since.elapsed() > self.limits.write_stall => {
                        return std::task::Poll::Ready(());
                    }
                    _ => {}
                }
            }
            future.as_mut().poll(cx).map(|_| ())
        })
        .await;
    }
}

/// All addresses with the same port.
pub fn listen(addresses: &[IpAddr], port: u16) -> Result<(Vec<TcpListener>, u16), String> {
    for attempt in 0.. {
        let mut listeners = Vec::new();
        let mut chosen = port;
        for address in addresses {
            match listen_at(SocketAddr::new(*address, chosen)) {
                Ok(listener) => {
                    chosen = listener.local_addr().map_err(|error| error.to_string())?.port();
                    listeners.push(listener);
                }
                // A port that is free at the first address need not be at the next.
                Err(_) if port == 0 && chosen != 0 && attempt < 16 => break,
                Err(error) => return Err(format!("{}: {error}", SocketAddr::new(*address, chosen))),
            }
        }
        if listeners.len() == addresses.len() {
            return Ok((listeners, chosen));
        }
    }
    unreachable!()
}

fn listen_at(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() {
        set_option(socket.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1);
    }
    socket.bind(address)?;
    socket.listen(1024)
}

pub fn read_tls(certificate: &str, key: &str) -> Result<Arc<ServerConfig>, String> {
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| format!("{certificate}: expected certificates in PEM, got: {error}"))?;
    if chain.is_empty() {
        return Err(format!("{certificate}: expected certificates in PEM, got none"));
    }
    let secret =
        PrivateKeyDer::from_pem_file(key).map_err(|error| format!("{key}: expected a private key in PEM, got: {error}"))?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, secret);
    let mut config = config.map_err(|error| format!("{certificate} and {key}: {error}"))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
