//! A connection's socket with what hyper has not: an end for peers that take nothing. It writes by send() alone, never by writev(),
//! which raises SIGPIPE.

use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{sleep, Duration, Sleep};

pub struct Socket {
    stream: TcpStream,
    stall: Duration,
    timer: Option<Pin<Box<Sleep>>>, // runs while the peer takes nothing
    stalled: Arc<AtomicU64>,
}

/// Unsent bytes that the kernel keeps beside what is under way: more would hide from us that a peer does not read.
const UNSENT: libc::c_int = 64 << 10;

impl Socket {
    pub fn new(stream: TcpStream, stall: Duration, stalled: Arc<AtomicU64>) -> Self {
        let fd = stream.as_raw_fd();
        let _ = stream.set_nodelay(true);
        // A peer that vanished without a word is found by unanswered bytes, or by probes while there are none.
        let stall_ms = libc::c_int::try_from(stall.as_millis()).unwrap_or(libc::c_int::MAX);
        set_option(fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, stall_ms);
        set_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
        set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 30);
        set_option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 10);
        set_option(fd, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, UNSENT);
        Socket { stream, stall, timer: None, stalled }
    }
}

/// Failure changes comfort only, so it is not reported.
pub fn set_option(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) {
    let size = std::mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: the descriptor is open, and the value lives through the call.
    unsafe { libc::setsockopt(fd, level, name, (&value as *const libc::c_int).cast(), size) };
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, out)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if written.is_ready() {
            self.timer = None;
            return written;
        }
        let stall = self.stall;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(stall)));
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.stalled.fetch_add(1, Relaxed);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
