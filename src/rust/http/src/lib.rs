//! The C ABI of the transport (../http.h): pointers in, callbacks out, panics caught. No policy and no JSON.

mod exchange;
mod gate;
mod rules;
mod server;
mod service;
mod socket;

use std::ffi::{c_int, c_void};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};
use hyper::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use hyper::{HeaderMap, StatusCode};

use exchange::{Exchange, Start};
use server::{Connection, Server};

/// What a caller must know to free it: the other crate's Buffer<u8>.
#[repr(C)]
pub struct Bytes {
    data: *mut u8,
    size: usize,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub struct View {
    data: *const u8,
    size: usize,
}

impl View {
    pub fn of(bytes: &[u8]) -> Self {
        View { data: bytes.as_ptr(), size: bytes.len() }
    }

    /// SAFETY: the caller keeps the bytes alive for the call, as the header says.
    unsafe fn bytes<'a>(self) -> &'a [u8] {
        list(self.data, self.size)
    }

    unsafe fn text(self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }
}

unsafe fn list<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if size == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(data, size)
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Field {
    name: View,
    value: View,
}

#[repr(C)]
pub struct RawHead {
    method: View,
    path: View,
    query: View,
    peer: View,
    fields: *const Field,
    field_count: usize,
    content_length: u64,
    has_content_length: c_int,
    version: c_int,
    tls: c_int,
}

pub struct Reply {
    start: Start,
    body: Vec<u8>,
}

impl Default for Reply {
    fn default() -> Self {
        let start = Start { status: StatusCode::INTERNAL_SERVER_ERROR, headers: HeaderMap::new() };
        Reply { start, body: Vec::new() }
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Callbacks {
    this: *mut c_void,
    head: extern "C" fn(*mut c_void, *const RawHead, *mut Reply) -> *mut c_void,
    refusal: extern "C" fn(*mut c_void, u16, View, *mut Reply),
    request: extern "C" fn(*mut c_void, *mut c_void, u64, View, *const Exchange),
    forget: extern "C" fn(*mut c_void, *mut c_void),
    gone: extern "C" fn(*mut c_void, u64),
}

// SAFETY: the caller promises that its functions may be called from any thread.
unsafe impl Send for Callbacks {}
unsafe impl Sync for Callbacks {}

impl Callbacks {
    fn head(&self, head: &RawHead, reply: &mut Reply) -> *mut c_void {
        (self.head)(self.this, head, reply)
    }

    fn refusal(&self, status: u16, why: &str, reply: &mut Reply) {
        (self.refusal)(self.this, status, View::of(why.as_bytes()), reply);
    }

    fn request(&self, head: *mut c_void, id: u64, body: &[u8], exchange: Arc<Exchange>) {
        (self.request)(self.this, head, id, View::of(body), Arc::into_raw(exchange));
    }

    fn forget(&self, head: *mut c_void) {
        (self.forget)(self.this, head);
    }

    fn gone(&self, id: u64) {
        (self.gone)(self.this, id);
    }
}

#[repr(C)]
pub struct Options {
    addresses: *const View,
    address_count: usize,
    certificate: View,
    key: View,
    max_connections: u64,
    max_connections_per_address: u64,
    max_header_bytes: u64,
    max_headers: u64,
    max_body_bytes: u64,
    max_bodies_bytes: u64,
    header_ms: u64,
    body_idle_ms: u64,
    idle_ms: u64,
    write_stall_ms: u64,
    port: u16,
    threads: u16,
}

pub struct Limits {
    pub max_connections: u64,
    pub max_connections_per_address: u64,
    pub max_header_bytes: usize,
    pub max_headers: usize,
    pub max_body_bytes: u64,
    pub max_bodies_bytes: u64,
    pub header: Duration,
    pub body_idle: Duration,
    pub idle: Duration,
    pub write_stall: Duration,
}

#[repr(C)]
pub struct Stats {
    connections: u64,
    accepted: u64,
    refused_connections: u64,
    requests: u64,
    broken_requests: u64,
    stalled: u64,
}

pub struct Http {
    server: Arc<Server>,
    runtime: Option<tokio::runtime::Runtime>,
    port: u16,
    tls: Option<(String, String)>,
}

const OK: c_int = 0;
const BAD_FILE: c_int = 1;
const BAD_REQUEST: c_int = 3;

unsafe fn fallible(error: *mut Bytes, work: impl FnOnce() -> Result<(), (c_int, String)>) -> c_int {
    let outcome = catch_unwind(AssertUnwindSafe(work));
    match outcome.unwrap_or_else(|_| Err((BAD_REQUEST, "the transport gave up".to_string()))) {
        Ok(()) => OK,
        Err((status, message)) => {
            let text = Box::leak(message.into_bytes().into_boxed_slice());
            *error = Bytes { data: text.as_mut_ptr(), size: text.len() };
            status
        }
    }
}

/// A panic is logged by the hook; the call does nothing then.
fn quiet<T>(otherwise: T, work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(otherwise)
}

fn start(options: &Options, callbacks: Callbacks) -> Result<Http, (c_int, String)> {
    // SAFETY: as the header says.
    let (addresses, certificate, key) =
        unsafe { (list(options.addresses, options.address_count), options.certificate.text(), options.key.text()) };
    let ms = Duration::from_millis;
    let limits = Limits {
        max_connections: options.max_connections,
        max_connections_per_address: options.max_connections_per_address,
        max_header_bytes: options.max_header_bytes as usize,
        max_headers: options.max_headers as usize,
        max_body_bytes: options.max_body_bytes,
        max_bodies_bytes: options.max_bodies_bytes,
        header: ms(options.header_ms),
        body_idle: ms(options.body_idle_ms),
        idle: ms(options.idle_ms),
        write_stall: ms(options.write_stall_ms),
    };
    let refused = |message: String| (BAD_REQUEST, message);
    let tls = (!certificate.is_empty()).then_some((certificate, key));
    let config = tls.as_ref().map(|(certificate, key)| server::read_tls(certificate, key)).transpose();
    let config = config.map_err(|message| (BAD_FILE, message))?;
    let mut parsed = Vec::new();
    for address in addresses {
        let text = unsafe { address.text() };
        parsed.push(text.parse().map_err(|_| refused(format!("{text}: expected a numeric address")))?);
    }
    let threads = usize::from(options.threads.max(1));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).thread_name("http").enable_all().build();
    let runtime = runtime.map_err(|error| refused(error.to_string()))?;
    let server = Arc::new(Server::new(limits, callbacks, config));
    let (listeners, port) = {
        let _inside = runtime.enter();
        server::listen(&parsed, options.port).map_err(refused)?
    };
    for listener in listeners {
        runtime.spawn(server.clone().accept(listener));
    }
    Ok(Http { server, runtime: Some(runtime), port, tls })
}

#[no_mangle]
pub unsafe extern "C" fn bb_http_start(
    options: *const Options,
    callbacks: Callbacks,
    out: *mut *mut Http,
    error: *mut Bytes,
) -> c_int {
    fallible(error, || {
        *out = Box::into_raw(Box::new(start(&*options, callbacks)?));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn bb_http_free(http: *mut Http) {
    let mut http = Box::from_raw(http);
    quiet((), move || {
        http.server.stop.cancel();
        http.server.door.cancel();
        http.server.cut.cancel();
        http.server.wait(Duration::from_secs(5));
        // Joins the threads; every task is dropped, and with it what it would have called.
        drop(http.runtime.take());
    });
}

#[no_mangle]
pub extern "C" fn bb_http_port(http: &Http) -> u16 {
    http.port
}

#[no_mangle]
pub unsafe extern "C" fn bb_http_stats(http: &Http, out: *mut Stats) {
    let server = &http.server;
    let counters = &server.counters;
    *out = Stats {
        connections: server.connections(),
        accepted: counters.accepted.load(Relaxed),
        refused_connections: counters.refused.load(Relaxed),
        requests: counters.requests.load(Relaxed),
        broken_requests: counters.broken.load(Relaxed),
        stalled: counters.stalled.load(Relaxed),
    };
}

#[no_mangle]
pub extern "C" fn bb_http_start_closing(http: &Http) {
    quiet((), || http.server.stop.cancel());
}

#[no_mangle]
pub extern "C" fn bb_http_close(http: &Http, wait_ms: u64) -> c_int {
    let server = &http.server;
    quiet(0, || {
        server.stop.cancel();
        server.door.cancel();
        let done = server.wait(Duration::from_millis(wait_ms));
        server.cut.cancel();
        server.wait(Duration::from_secs(5));
        done.into()
    })
}

#[no_mangle]
pub unsafe extern "C" fn bb_http_reload_tls(http: &Http, error: *mut Bytes) -> c_int {
    fallible(error, || {
        if let Some((certificate, key)) = &http.tls {
            let config = server::read_tls(certificate, key).map_err(|message| (BAD_FILE, message))?;
            http.server.set_tls(config);
        }
        Ok(())
    })
}

/// What HTTP itself writes is left out; what cannot be sent makes a 500 of the answer.
unsafe fn started(status: u16, fields: *const Field, count: usize) -> Start {
    let mut start =
        Start { status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), headers: HeaderMap::new() };
    for field in list(fields, count) {
        match (HeaderName::from_bytes(field.name.bytes()), HeaderValue::from_bytes(field.value.bytes())) {
            (Ok(name), Ok(_)) if [CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING].contains(&name) => {}
            (Ok(name), Ok(value)) => {
                start.headers.append(name, value);
            }
            _ => start.status = StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
    start
}

#[no_mangle]
pub unsafe extern "C" fn bb_http_reply(reply: *mut Reply, status: u16, fields: *const Field, count: usize, body: View) {
    quiet((), || *reply = Reply { start: started(status, fields, count), body: body.bytes().to_vec() });
}

#[no_mangle]
pub unsafe extern "C" fn bb_http_respond(exchange: &Exchange, status: u16, fields: *const Field, count: usize, body: View) {
    quiet((), || exchange.respond(started(status, fields, count), body.bytes()));
}

#[no_mangle]
pub unsafe extern "C" fn bb_http_begin(exchange: &Exchange, status: u16, fields: *const Field, count: usize) {
    quiet((), || exchange.begin(started(status, fields, count)));
}

#[no_mangle]
pub unsafe extern "C" fn bb_http_write(exchange: &Exchange, piece: View) {
    quiet((), || exchange.write(piece.bytes()));
}

#[no_mangle]
pub extern "C" fn bb_http_end(exchange: &Exchange) {
    quiet((), || exchange.end());
}

#[no_mangle]
pub extern "C" fn bb_http_unsent(exchange: &Exchange) -> usize {
    quiet(0, || exchange.unsent())
}

#[no_mangle]
pub extern "C" fn bb_http_is_gone(exchange: &Exchange) -> c_int {
    quiet(1, || exchange.is_gone().into())
}

#[no_mangle]
pub unsafe extern "C" fn bb_http_exchange_free(exchange: *const Exchange) {
    quiet((), || {
        let exchange = Arc::from_raw(exchange);
        exchange.release();
    });
}
