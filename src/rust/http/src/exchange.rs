//! One request's way back. The caller's threads queue bytes, hyper takes them; a mutex between the two, held for a copy at most.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};
use hyper::{HeaderMap, StatusCode};
use tokio::time::{Duration, Instant};

use crate::{Callbacks, Connection};

pub struct Start {
    pub status: StatusCode,
    pub headers: HeaderMap,
}

struct State {
    start: Option<Start>,
    started: bool,
    length: Option<u64>,
    queue: BytesMut,
    offered: usize,       // of the piece that hyper has, until it asks for the next
    ended: bool,          // nothing will be queued any more
    complete: bool,       // hyper has everything
    over: bool,           // hyper asks no more
    gone: bool,           // it stopped before it had everything
    watched: bool,        // the caller wants to hear when that happens
    taken: Instant,       // when hyper last took bytes, or there were none to take
    waker: Option<Waker>, // of whoever waits for the start or for bytes
}

impl State {
    fn unsent(&self) -> usize {
        self.queue.len() + self.offered
    }
}

pub struct Exchange {
    id: u64,
    callbacks: Callbacks,
    state: Mutex<State>,
}

impl Exchange {
    pub fn new(id: u64, callbacks: Callbacks) -> Arc<Self> {
        let state = State {
            start: None,
            started: false,
            length: None,
            queue: BytesMut::new(),
            offered: 0,
            ended: false,
            complete: false,
            over: false,
            gone: false,
            watched: false,
            taken: Instant::now(),
            waker: None,
        };
        Arc::new(Exchange { id, callbacks, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes who waits for it, outside the lock.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        if state.over || state.ended || state.gone {
            return;
        }
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn watch(&self) {
        self.state().watched = true;
    }

    pub fn respond(&self, start: Start, body: &[u8]) {
        self.change(|state| {
            if state.started {
                return;
            }
            state.start = Some(start);
            state.started = true;
            state.length = Some(body.len() as u64);
            state.queue.extend_from_slice(body);
            state.taken = Instant::now();
            state.ended = true;
        });
    }

    pub fn begin(&self, start: Start) {
        self.change(|state| {
            if !state.started {
                state.start = Some(start);
                state.started = true;
            }
        });
    }

    pub fn write(&self, piece: &[u8]) {
        self.change(|state| {
            if !state.started {
                return;
            }
            if state.unsent() == 0 {
                state.taken = Instant::now();
            }
            state.queue.extend_from_slice(piece);
        });
    }

    pub fn end(&self) {
        self.change(|state| state.ended = state.started);
    }

    /// The caller's handle goes; what is not complete by now never will be.
    pub fn release(&self) {
        self.change(|state| {
            state.gone = true;
            state.watched = false;
        });
    }

    pub fn unsent(&self) -> usize {
        self.state().unsent()
    }

    pub fn is_gone(&self) -> bool {
        self.state().gone
    }

    pub fn is_over(&self) -> bool {
        self.state().over
    }

    pub fn is_stalled(&self, time: Duration) -> bool {
        let state = self.state();
        !state.over && state.unsent() > 0 && state.taken.elapsed() >= time
    }

    /// None: the caller dropped it. `headless`: the body is not to be sent (HEAD), so that it is complete at once.
    pub fn poll_start(&self, cx: &mut Context<'_>, headless: bool) -> Poll<Option<Start>> {
        let mut state = self.state();
        if let Some(start) = state.start.take() {
            state.complete = headless;
            state.over = headless;
            return Poll::Ready(Some(start));
        }
        if state.gone {
            return Poll::Ready(None);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn close(&self) {
        let mut state = self.state();
        if state.over {
            return;
        }
        state.over = true;
        state.gone = !state.complete;
        state.queue = BytesMut::new();
        state.offered = 0;
        let tell = state.gone && std::mem::take(&mut state.watched);
        drop(state);
        if tell {
            self.callbacks.gone(self.id);
        }
    }
}

/// hyper's end of an exchange: the waiting request first, the body then. Its drop is how we learn that the peer is gone.
pub struct Out {
    pub exchange: Arc<Exchange>,
    connection: Arc<Connection>,
}

impl Out {
    pub fn new(exchange: Arc<Exchange>, connection: Arc<Connection>) -> Self {
        connection.opened();
        Out { exchange, connection }
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        self.exchange.close();
        self.connection.closed();
    }
}

/// What hyper gets at once, so that the rest still counts as unsent.
const PIECE: usize = 32 << 10;

impl Body for Out {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut state = self.exchange.state();
        state.offered = 0;
        if !state.queue.is_empty() {
            let size = state.queue.len().min(PIECE);
            let piece = state.queue.split_to(size).freeze();
            state.taken = Instant::now();
            state.offered = size;
            state.complete = state.ended && state.queue.is_empty();
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if state.ended {
            state.complete = true;
            return Poll::Ready(None);
        }
        if state.gone {
            return Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionAborted.into())));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let mut state = self.exchange.state();
        let end = state.ended && state.queue.is_empty();
        state.complete |= end;
        end
    }

    fn size_hint(&self) -> SizeHint {
        self.exchange.state().length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
