//! What HTTP/1 connections pass before hyper reads them. A message is let through only in the one form that every reader takes
//! alike: hyper forgives some that have been used to smuggle requests past a proxy (a length beside chunks, two equal lengths, bare
//! line feeds), and does not tell what it forgave. One message at a time: the next waits here until the answer is out, so that a peer
//! that leaves is noticed while nothing is written. The times for a head and between messages are kept here too.

use std::future::{poll_fn, Future};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::task::{ready, Context, Poll, Waker};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{sleep, Duration, Instant, Sleep};

use crate::rules::{self, Chunks, Framing, Refusal};
use crate::Limits;

/// What the gate and the requests of its connection tell each other.
#[derive(Default)]
pub struct Wire {
    busy: AtomicBool,
    reader: Mutex<Option<Waker>>,
    refusal: Mutex<Option<Refusal>>,
}

impl Wire {
    /// The answer is out: the next message may come.
    pub fn done(&self) {
        self.busy.store(false, SeqCst);
        let waker = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Why the message that hyper reads now must not be answered otherwise.
    pub fn refusal(&self) -> Option<Refusal> {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse(&self, refusal: Refusal) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
    }
}

enum Phase {
    Open, // HTTP/2, which looks after itself
    Head { seen: usize },
    Length(u64),
    Chunked(Chunks),
    Answering,
    Closed,
}

pub struct Gate<S> {
    io: S,
    wire: std::sync::Arc<Wire>,
    limits: std::sync::Arc<Limits>,
    input: BytesMut,
    released: usize, // bytes of `input` that hyper may have
    phase: Phase,
    timer: Pin<Box<Sleep>>,
    ended: bool,
    lingering: bool,
}

/// Pipelined bytes that are read ahead, so that the end behind them is seen.
const READ_AHEAD: usize = 64 << 10;
/// So long a peer that still sends may go on after its answer: closed at once, it would be reset and might not see the answer.
const LINGER: Duration = Duration::from_secs(2);
/// What hyper gets in place of a message that is refused; only Wire::refusal() decides the answer.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: -\r\n\r\n";

impl<S: AsyncRead + AsyncWrite + Unpin> Gate<S> {
    pub fn new(io: S, wire: std::sync::Arc<Wire>, limits: std::sync::Arc<Limits>) -> Self {
        let timer = Box::pin(sleep(limits.header));
        let phase = Phase::Head { seen: 0 };
        Gate { io, wire, limits, input: BytesMut::new(), released: 0, phase, timer, ended: false, lingering: false }
    }

    /// Whether a plain connection begins as HTTP/2 does; lets it through then.
    pub async fn speaks_two(&mut self) -> io::Result<bool> {
        const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        while self.input.len() < PREFACE.len() && PREFACE.starts_with(&self.input) && !self.ended {
            self.ended = poll_fn(|cx| self.poll_input(cx)).await? == 0;
        }
        let two = self.input.starts_with(PREFACE);
        if two {
            self.phase = Phase::Open;
        }
        self.timer.as_mut().reset(Instant::now() + self.limits.header);
        Ok(two)
    }

    /// Judges what has been read. False: more is needed.
    fn advance(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        match &mut self.phase {
            Phase::Open => {
                self.released = self.input.len();
                return Ok(self.released > 0);
            }
            Phase::Head { seen } => match rules::head(&self.input, seen, &self.limits) {
                Ok(None) => return Ok(false),
                Ok(Some(head)) => {
                    self.wire.busy.store(true, SeqCst);
                    self.input.advance(head.skip);
                    self.released = head.size;
                    self.phase = match head.framing {
                        Framing::Length(0) => Phase::Answering,
                        Framing::Length(length) => Phase::Length(length),
                        Framing::Chunked => Phase::Chunked(Chunks::default()),
                    };
                }
                Err(refusal) => self.stand_in(refusal),
            },
            Phase::Length(left) => {
                self.released = usize::try_from(*left).unwrap_or(usize::MAX).min(self.input.len());
                *left -= self.released as u64;
                if *left == 0 {
                    self.phase = Phase::Answering;
                }
                return Ok(self.released > 0);
            }
            Phase::Chunked(chunks) => match chunks.take(&self.input) {
                Ok(taken) => {
                    self.released = taken;
                    if chunks.ended() {
                        self.phase = Phase::Answering;
                    }
                    return Ok(taken > 0);
                }
                Err(refusal) => {
                    self.wire.refuse(refusal);
                    self.phase = Phase::Closed;
                    return Err(io::ErrorKind::InvalidData.into());
                }
            },
            Phase::Answering => {
                *self.wire.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
                if self.wire.busy.load(SeqCst) {
                    return Ok(false);
                }
                self.phase = Phase::Head { seen: 0 };
                let time = if self.input.is_empty() { self.limits.idle } else { self.limits.header };
                self.timer.as_mut().reset(Instant::now() + time);
            }
            Phase::Closed => return Ok(false),
        }
        Ok(true)
    }

    fn stand_in(&mut self, refusal: Refusal) {
        self.wire.refuse(refusal);
        self.input.clear();
        self.input.extend_from_slice(STAND_IN);
        self.released = STAND_IN.len();
        self.phase = Phase::Closed;
    }

    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut block = [std::mem::MaybeUninit::<u8>::uninit(); 16 << 10];
        let mut read = ReadBuf::uninit(&mut block);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
        self.input.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gate<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let gate = &mut *self;
        loop {
            if gate.released > 0 {
                let size = gate.released.min(out.remaining());
                out.put_slice(&gate.input[..size]);
                gate.input.advance(size);
                gate.released -= size;
                return Poll::Ready(Ok(()));
            }
            if gate.ended {
                return Poll::Ready(Ok(()));
            }
            if gate.advance(cx)? {
                continue;
            }
            let waits = matches!(gate.phase, Phase::Closed);
            if waits || (matches!(gate.phase, Phase::Answering) && gate.input.len() >= READ_AHEAD) {
                return Poll::Pending;
            }
            let first = gate.input.is_empty();
            match gate.poll_input(cx)? {
                Poll::Ready(0) => gate.ended = true,
                Poll::Ready(_) => {
                    if first && matches!(gate.phase, Phase::Head { .. }) {
                        gate.timer.as_mut().reset(Instant::now() + gate.limits.header);
                    }
                }
                Poll::Pending => {
                    if !matches!(gate.phase, Phase::Head { .. }) || gate.timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    if gate.input.is_empty() {
                        gate.ended = true;
                    } else {
                        gate.stand_in(rules::LATE_HEAD);
                    }
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.lingering {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            if self.ended || (matches!(self.phase, Phase::Open | Phase::Head { .. } | Phase::Answering) && self.input.is_empty())
            {
                return Poll::Ready(Ok(()));
            }
            self.lingering = true;
            self.timer.as_mut().reset(Instant::now() + LINGER);
        }
        while self.timer.as_mut().poll(cx).is_pending() {
            self.input.clear();
            if ready!(self.poll_input(cx))? == 0 {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}
