//! The C ABI over Hugging Face `tokenizers` and `minijinja` (see text.h), and what it shares with that of pattern.rs. This file only
//! crosses the border: pointers in, owned buffers out, panics caught, stacks fixed. The work is in tokenizer.rs and template.rs.

mod guard;
mod messages;
mod ops;
mod pattern;
mod pyjson;
mod pystr;
mod template;
mod text_bound;
mod token_bytes;
mod tokenizer;

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Once, OnceLock};

#[cfg(feature = "http")]
pub use bumblebee_http;
pub use template::Template;
pub use tokenizer::Tokenizer;

/// Which kind of error the C++ side throws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum Status {
    Ok = 0,
    BadFile = 1,
    Unsupported = 2,
    BadRequest = 3,
    BadConfig = 4,
}

pub struct Failure {
    pub status: Status,
    pub message: String,
}

impl Failure {
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Failure { status, message: message.into() }
    }
}

pub type Outcome<T> = Result<T, Failure>;

#[derive(Clone, Copy)]
#[repr(C)]
pub struct View {
    data: *const u8,
    size: usize,
}

impl View {
    /// SAFETY: the caller keeps the bytes alive for the call, as the header says.
    unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.size == 0 {
            &[]
        } else {
            std::slice::from_raw_parts(self.data, self.size)
        }
    }
}

#[repr(C)]
pub struct Buffer<T> {
    data: *mut T,
    size: usize,
}

impl<T> Buffer<T> {
    fn new(values: Vec<T>) -> Self {
        let mut boxed = values.into_boxed_slice();
        let size = boxed.len();
        let data = if size == 0 { std::ptr::null_mut() } else { boxed.as_mut_ptr() };
        if size != 0 {
            std::mem::forget(boxed);
        }
        Buffer { data, size }
    }

    /// SAFETY: `self` came from `new` and is given back once.
    unsafe fn free(self) {
        if !self.data.is_null() {
            drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(self.data, self.size)));
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Span {
    pub begin: usize,
    pub end: usize,
}

#[no_mangle]
pub unsafe extern "C" fn bb_bytes_free(bytes: Buffer<u8>) {
    bytes.free()
}

#[no_mangle]
pub unsafe extern "C" fn bb_ids_free(ids: Buffer<u32>) {
    ids.free()
}

#[no_mangle]
pub unsafe extern "C" fn bb_spans_free(spans: Buffer<Span>) {
    spans.free()
}

static QUIET: Once = Once::new();
static PANIC_LOG: OnceLock<extern "C" fn(View)> = OnceLock::new();

/// A library does not print: panics are reported through the status, and to the log of whoever asked.
fn quiet_panics() {
    QUIET.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            if let Some(log) = PANIC_LOG.get() {
                let text = info.to_string();
                log(View { data: text.as_ptr(), size: text.len() });
            }
        }));
    });
}

#[no_mangle]
pub extern "C" fn bb_log_panics(log: extern "C" fn(View)) {
    let _ = PANIC_LOG.set(log);
    quiet_panics();
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = if let Some(text) = payload.downcast_ref::<&str>() {
        text.to_string()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "unknown cause".to_string()
    };
    text.chars().take(300).collect()
}

unsafe fn guarded(error: *mut Buffer<u8>, on_panic: Status, work: impl FnOnce() -> Outcome<()>) -> Status {
    quiet_panics();
    let outcome = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let message = format!("the Rust library gave up: {}", panic_text(payload.as_ref()));
        Err(Failure::new(on_panic, message))
    });
    match outcome {
        Ok(()) => Status::Ok,
        Err(failure) => {
            *error = Buffer::new(failure.message.into_bytes());
            failure.status
        }
    }
}

/// Deeply nested files and templates recurse; callers may have small stacks. The stack is virtual memory until it is touched.
const STACK_BYTES: usize = 32 << 20;

fn on_own_stack<T: Send>(on_panic: Status, work: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work)
            .map_err(|e| Failure::new(Status::BadRequest, format!("no thread for the text engine: {e}")))?;
        thread.join().unwrap_or_else(|payload| {
            Err(Failure::new(on_panic, format!("the Rust library gave up: {}", panic_text(payload.as_ref()))))
        })
    })
}

#[no_mangle]
pub unsafe extern "C" fn bb_tokenizer_new(
    tokenizer_json: View,
    special_json: View,
    out: *mut *mut Tokenizer,
    info: *mut Buffer<u8>,
    error: *mut Buffer<u8>,
) -> Status {
    guarded(error, Status::BadFile, || {
        let (file, special) = (tokenizer_json.bytes(), special_json.bytes());
        let tokenizer = on_own_stack(Status::BadFile, || Tokenizer::new(file, special))?;
        *info = Buffer::new(tokenizer.info().into_bytes());
        *out = Box::into_raw(Box::new(tokenizer));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn bb_tokenizer_free(tokenizer: *mut Tokenizer) {
    if !tokenizer.is_null() {
        drop(Box::from_raw(tokenizer));
    }
}

#[no_mangle]
pub unsafe extern "C" fn bb_encode(
    tokenizer: *const Tokenizer,
    text: View,
    flags: u32,
    guards: *const Span,
    guard_count: usize,
    out: *mut Buffer<u32>,
    error: *mut Buffer<u8>,
) -> Status {
    guarded(error, Status::BadRequest, || {
        let guards = if guard_count == 0 { &[] } else { std::slice::from_raw_parts(guards, guard_count) };
        let ids = (*tokenizer).encode(text.bytes(), flags & 1 != 0, flags & 2 != 0, guards)?;
        *out = Buffer::new(ids);
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn bb_decode(
    tokenizer: *const Tokenizer,
    ids: *const u32,
    count: usize,
    skip_special: i32,
    out: *mut Buffer<u8>,
    error: *mut Buffer<u8>,
) -> Status {
    guarded(error, Status::BadRequest, || {
        let ids = if count == 0 { &[] } else { std::slice::from_raw_parts(ids, count) };
        *out = Buffer::new((*tokenizer).decode(ids, skip_special != 0)?.into_bytes());
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn bb_id_of(tokenizer: *const Tokenizer, token: View, out: *mut u32) -> i32 {
    let found =
        catch_unwind(AssertUnwindSafe(|| std::str::from_utf8(token.bytes()).ok().and_then(|text| (*tokenizer).id_of(text))));
    match found {
        Ok(Some(id)) => {
            *out = id;
            1
        }
        _ => 0,
    }
}

#[no_mangle]
pub unsafe extern "C" fn bb_token_of(tokenizer: *const Tokenizer, id: u32, out: *mut Buffer<u8>) -> i32 {
    match catch_unwind(AssertUnwindSafe(|| (*tokenizer).token_of(id))) {
        Ok(Some(text)) => {
            *out = Buffer::new(text.into_bytes());
            1
        }
        _ => 0,
    }
}

#[no_mangle]
pub unsafe extern "C" fn bb_token_bytes(
    tokenizer: *const Tokenizer,
    kinds: *mut Buffer<u8>,
    ends: *mut Buffer<u32>,
    bytes: *mut Buffer<u8>,
    strip: *mut Buffer<u8>,
    strip_count: *mut usize,
) -> i32 {
    match catch_unwind(AssertUnwindSafe(|| (*tokenizer).token_bytes())) {
        Ok(Some(table)) => {
            *kinds = Buffer::new(table.kinds);
            *ends = Buffer::new(table.ends);
            *bytes = Buffer::new(table.bytes);
            let (content, count) = table.strip.unwrap_or_default();
            *strip = Buffer::new(content.to_string().into_bytes());
            *strip_count = count;
            1
        }
        _ => 0,
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
pub struct TemplateLimits {
    pub steps: u64,
    pub output_bytes: usize,
    pub recursion: usize,
    pub json_depth: usize,
}

#[no_mangle]
pub unsafe extern "C" fn bb_template_new(
    source: View,
    control_json: View,
    limits: TemplateLimits,
    out: *mut *mut Template,
    error: *mut Buffer<u8>,
) -> Status {
    guarded(error, Status::BadFile, || {
        let (source, control) = (source.bytes(), control_json.bytes());
        let template = on_own_stack(Status::BadFile, || Template::new(source, control, limits))?;
        *out = Box::into_raw(Box::new(template));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn bb_template_free(template: *mut Template) {
    if !template.is_null() {
        let template = Box::from_raw(template);
        // A deep syntax tree is dropped by recursion, so it needs the same stack as its making.
        let _ = on_own_stack(Status::BadFile, move || {
            drop(template);
            Ok(())
        });
    }
}

#[repr(C)]
pub struct RenderRequest {
    messages_json: View,
    tools_json: View,
    kwargs_json: View,
    named_json: View,
    add_generation_prompt: i32,
    trust_content: i32,
    now: f64,
}

#[no_mangle]
pub unsafe extern "C" fn bb_template_render(
    template: *const Template,
    request: *const RenderRequest,
    text: *mut Buffer<u8>,
    guards: *mut Buffer<Span>,
    error: *mut Buffer<u8>,
) -> Status {
    guarded(error, Status::BadRequest, || {
        let request = &*request;
        let input = template::Input {
            messages: request.messages_json.bytes(),
            tools: request.tools_json.bytes(),
            kwargs: request.kwargs_json.bytes(),
            named: request.named_json.bytes(),
            add_generation_prompt: request.add_generation_prompt != 0,
            trust_content: request.trust_content != 0,
            now: request.now,
        };
        let template = &*template;
        let (rendered, spans) = on_own_stack(Status::BadRequest, || template.render(&input))?;
        *text = Buffer::new(rendered.into_bytes());
        *guards = Buffer::new(spans);
        Ok(())
    })
}
