//! One request: its head is shown to the caller, its body read within bounds, its answer waited for. Which requests are good is the
//! caller's business; how a refusal reaches the peer is ours.

use std::ffi::c_void;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use hyper::body::{Body, Incoming};
use hyper::header::{HeaderValue, CONNECTION, CONTENT_LENGTH, EXPECT, HOST};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, Response, Version};
use tokio::time::{sleep, timeout};

use crate::exchange::{Exchange, Out, Start};
use crate::rules::{self, Refusal};
use crate::{Callbacks, Connection, Field, RawHead, Reply, View};

/// A body that small is read before a refusal is sent: most clients look at the answer only when they have sent everything.
const READ_BEFORE_REFUSAL: u64 = 64 << 10;

/// Bytes of one body, counted among those of all that are being read.
struct Counted<'a> {
    bytes: Vec<u8>,
    all: &'a AtomicU64,
}

impl Counted<'_> {
    fn take(&mut self, data: &[u8], limit: u64, all_limit: u64) -> Result<(), Refusal> {
        if (self.bytes.len() + data.len()) as u64 > limit {
            return Err(rules::LONG_BODY);
        }
        let size = data.len() as u64;
        if self.all.fetch_add(size, Relaxed) + size > all_limit {
            self.all.fetch_sub(size, Relaxed);
            return Err(rules::MANY_BODIES);
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes.len() as u64, Relaxed);
    }
}

/// What the caller made of a head; goes back to it on every path.
struct Accepted {
    head: *mut c_void,
    callbacks: Callbacks,
}

// SAFETY: the caller's object moves between the I/O threads, one at a time.
unsafe impl Send for Accepted {}

impl Accepted {
    fn hand_over(self, id: u64, body: &[u8], exchange: Arc<Exchange>) {
        self.callbacks.request(self.head, id, body, exchange);
        std::mem::forget(self);
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        self.callbacks.forget(self.head);
    }
}

pub async fn serve(connection: Arc<Connection>, request: Request<Incoming>) -> io::Result<Response<Out>> {
    let server = connection.server.clone();
    let (limits, callbacks) = (server.limits.clone(), server.callbacks);
    let (parts, mut body) = request.into_parts();
    let mut call = Call { old: parts.version < Version::HTTP_2, headless: parts.method == Method::HEAD, connection };
    let checked = match call.connection.wire.as_ref().and_then(|wire| wire.refusal()) {
        Some(refusal) => Err(refusal),
        None => host(&parts),
    };
    let host = match checked {
        Ok(host) => host,
        Err(refusal) => return call.refuse(refusal),
    };
    server.counters.requests.fetch_add(1, Relaxed);

    let length = content_length(&parts.headers, &body);
    let mut reply = Reply::default();
    let accepted = {
        let mut fields: Vec<Field> = Vec::with_capacity(parts.headers.len() + 1);
        fields.extend(host.iter().map(|host| Field { name: View::of(b"host"), value: View::of(host.as_bytes()) }));
        let others = parts.headers.iter().filter(|(name, _)| *name != HOST);
        fields.extend(
            others.map(|(name, value)| Field { name: View::of(name.as_str().as_bytes()), value: View::of(value.as_bytes()) }),
        );
        let version = match parts.version {
            Version::HTTP_2 => 20,
            Version::HTTP_10 => 10,
            _ => 11,
        };
        let head = RawHead {
            method: View::of(parts.method.as_str().as_bytes()),
            path: View::of(parts.uri.path().as_bytes()),
            query: View::of(parts.uri.query().unwrap_or_default().as_bytes()),
            peer: View::of(call.connection.peer.as_bytes()),
            fields: fields.as_ptr(),
            field_count: fields.len(),
            content_length: length.unwrap_or(0),
            has_content_length: length.is_some().into(),
            version,
            tls: call.connection.tls.into(),
        };
        let head = callbacks.head(&head, &mut reply);
        (!head.is_null()).then_some(Accepted { head, callbacks })
    };
    let Some(accepted) = accepted else {
        // Who waits for "100 Continue" has sent nothing yet, and hears no.
        let waits = parts.headers.contains_key(EXPECT) && call.old;
        let small = length.is_none_or(|length| length <= READ_BEFORE_REFUSAL) && !waits;
        let read = small && timeout(limits.header, discard(&mut body)).await.unwrap_or(false);
        return call.answer(reply, !read);
    };
    if length.is_some_and(|length| length > limits.max_body_bytes) {
        return call.refuse(rules::LONG_BODY);
    }

    let mut counted = Counted { bytes: Vec::new(), all: &server.counters.bodies };
    loop {
        let data = match timeout(limits.body_idle, next(&mut body)).await {
            Ok(Some(Ok(data))) => data,
            Ok(None) => break,
            // Broken framing is answered; a peer that is gone hears nothing.
            Ok(Some(Err(_))) => match call.connection.wire.as_ref().and_then(|wire| wire.refusal()) {
                Some(refusal) => return call.refuse(refusal),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            },
            Err(_) => return call.refuse(rules::LATE_BODY),
        };
        if let Err(refusal) = counted.take(&data, limits.max_body_bytes, limits.max_bodies_bytes) {
            return call.refuse(refusal);
        }
    }
    let exchange = Exchange::new(server.counters.next_id.fetch_add(1, Relaxed), callbacks);
    let out = Out::new(exchange.clone(), call.connection.clone());
    exchange.watch();
    accepted.hand_over(exchange.id(), &counted.bytes, exchange);
    drop(counted);
    call.send(out, false).await
}

struct Call {
    connection: Arc<Connection>,
    old: bool, // HTTP/1
    headless: bool,
}

impl Call {
    fn refuse(&mut self, refusal: Refusal) -> io::Result<Response<Out>> {
        let server = &self.connection.server;
        server.counters.broken.fetch_add(1, Relaxed);
        let mut reply = Reply::default();
        server.callbacks.refusal(refusal.status, refusal.why, &mut reply);
        self.answer(reply, true)
    }

    fn answer(&self, reply: Reply, close: bool) -> io::Result<Response<Out>> {
        let exchange = Exchange::new(0, self.connection.server.callbacks);
        let out = Out::new(exchange.clone(), self.connection.clone());
        exchange.respond(reply.start, &reply.body);
        let waker = std::task::Waker::noop();
        match exchange.poll_start(&mut std::task::Context::from_waker(waker), self.headless) {
            std::task::Poll::Ready(Some(start)) => Ok(self.response(start, out, close)),
            _ => Err(io::ErrorKind::Other.into()),
        }
    }

    async fn send(&self, out: Out, close: bool) -> io::Result<Response<Out>> {
        match poll_fn(|cx| out.exchange.poll_start(cx, self.headless)).await {
            Some(start) => Ok(self.response(start, out, close)),
            None => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    fn response(&self, start: Start, out: Out, close: bool) -> Response<Out> {
        if !self.old && !self.headless {
            tokio::spawn(cut_if_stalled(out.exchange.clone(), self.connection.clone()));
        }
        let mut response = Response::new(out);
        *response.status_mut() = start.status;
        *response.headers_mut() = start.headers;
        if (close || self.connection.server.stop.is_cancelled()) && self.old {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// HTTP/2's windows can keep one stream from moving while the socket takes everything: hyper does not ask the body then, so somebody
/// else must look.
async fn cut_if_stalled(exchange: Arc<Exchange>, connection: Arc<Connection>) {
    let stall = connection.server.limits.write_stall;
    while !exchange.is_over() {
        sleep(stall / 4).await;
        if exchange.is_stalled(stall) {
            connection.server.counters.stalled.fetch_add(1, Relaxed);
            connection.cut.cancel();
            return;
        }
    }
}

/// The one host that the request names, in its target or its headers; in both only if they agree. HTTP/1.0 may name none.
fn host(request: &Parts) -> Result<Option<HeaderValue>, Refusal> {
    if request.method == Method::CONNECT {
        return Err(rules::CONNECT);
    }
    let mut named = request.headers.get_all(HOST).iter();
    match (request.uri.authority(), named.next(), named.next()) {
        (None, None, _) if request.version == Version::HTTP_10 => Ok(None),
        (_, Some(_), Some(_)) | (None, None, _) => Err(rules::NO_HOST),
        (None, Some(named), _) => Ok(Some(named.clone())),
        (Some(target), None, _) => HeaderValue::from_str(target.as_str()).map(Some).map_err(|_| rules::NO_HOST),
        (Some(target), Some(named), _) if target.as_str().as_bytes().eq_ignore_ascii_case(named.as_bytes()) => {
            Ok(Some(named.clone()))
        }
        _ => Err(rules::NO_HOST),
    }
}

fn content_length(headers: &HeaderMap, body: &Incoming) -> Option<u64> {
    let named = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    named.or_else(|| body.is_end_stream().then_some(0))
}

async fn next(body: &mut Incoming) -> Option<hyper::Result<bytes::Bytes>> {
    loop {
        return match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await? {
            Ok(frame) => match frame.into_data() {
                Ok(data) => Some(Ok(data)),
                Err(_) => continue, // trailers of HTTP/2
            },
            Err(error) => Some(Err(error)),
        };
    }
}

/// Whether it was all there, and small.
async fn discard(body: &mut Incoming) -> bool {
    let mut size = 0;
    while let Some(data) = next(body).await {
        size += data.as_ref().map_or(u64::MAX / 2, |data| data.len() as u64);
        if size > READ_BEFORE_REFUSAL {
            return false;
        }
    }
    true
}
