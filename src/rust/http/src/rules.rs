//! The one form of an HTTP/1 message that is taken: RFC 9112 without what it lets recipients forgive. No input, no time, no state
//! beyond the message.

use crate::Limits;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Refusal {
    pub status: u16,
    pub why: &'static str,
}

const fn refusal(status: u16, why: &'static str) -> Refusal {
    Refusal { status, why }
}

pub const LATE_HEAD: Refusal = refusal(408, "the head of the request took too long");
pub const LATE_BODY: Refusal = refusal(408, "the body of the request took too long");
pub const LONG_BODY: Refusal = refusal(413, "the body of the request is too long");
pub const MANY_BODIES: Refusal = refusal(503, "too many bodies are being read");
pub const NO_HOST: Refusal = refusal(400, "expected one host");
pub const CONNECT: Refusal = refusal(405, "CONNECT is not taken");

#[derive(Debug, PartialEq)]
pub enum Framing {
    Length(u64),
    Chunked,
}

#[derive(Debug, PartialEq)]
pub struct Head {
    pub skip: usize, // empty lines before it
    pub size: usize,
    pub framing: Framing,
}

/// `seen`: how much of `input` was looked at before. None: it is not complete.
pub fn head(input: &[u8], seen: &mut usize, limits: &Limits) -> Result<Option<Head>, Refusal> {
    let skip = input.chunks(2).take_while(|pair| *pair == b"\r\n").count() * 2;
    let end = end_of_head(input, (*seen).max(skip))?;
    *seen = input.len();
    if end.unwrap_or(input.len()) > limits.max_header_bytes {
        return Err(refusal(431, "the head of the request is too long"));
    }
    let Some(end) = end else { return Ok(None) };
    let mut lines = input[skip..end - 4].split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let old = request_line(lines.next().unwrap_or_default())?;
    let (mut fields, mut hosts, mut length, mut chunked) = (0, 0, None, false);
    for line in lines {
        fields += 1;
        let (name, value) = field(line)?;
        if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let digits = !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
            if !digits || length.is_some() {
                return Err(refusal(400, "content-length: expected one number"));
            }
            length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if old || chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(refusal(400, "transfer-encoding: expected one \"chunked\", of HTTP/1.1"));
            }
            chunked = true;
        }
    }
    if fields > limits.max_headers {
        return Err(refusal(431, "the request has too many headers"));
    }
    // HTTP/1.0 needs none, and balancers that look whether a server lives send none.
    if hosts > 1 || (hosts == 0 && !old) {
        return Err(NO_HOST);
    }
    if chunked && length.is_some() {
        return Err(refusal(400, "content-length and transfer-encoding exclude each other"));
    }
    let framing = if chunked { Framing::Chunked } else { Framing::Length(length.unwrap_or(0)) };
    Ok(Some(Head { skip, size: end - skip, framing }))
}

fn end_of_head(input: &[u8], seen: usize) -> Result<Option<usize>, Refusal> {
    for at in seen..input.len() {
        let after_return = at > 0 && input[at - 1] == b'\r';
        match input[at] {
            b'\n' if !after_return => return Err(refusal(400, "a line ends without a carriage return")),
            b'\n' if at >= 3 && input[at - 3..at] == *b"\r\n\r" => return Ok(Some(at + 1)),
            b'\n' => {}
            _ if after_return => return Err(refusal(400, "a carriage return without a line feed")),
            b'\r' | b'\t' | b' '..=b'~' | 0x80.. => {}
            _ => return Err(refusal(400, "a control character in the head of the request")),
        }
    }
    Ok(None)
}

/// True: HTTP/1.0.
fn request_line(line: &[u8]) -> Result<bool, Refusal> {
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let target_is_plain = |target: &[u8]| target.iter().all(|byte| (b'!'..=b'~').contains(byte) && *byte != b'#');
    match (method, target, version, words.next()) {
        (Some(method), Some(target), Some(version), None)
            if is_token(method) && !target.is_empty() && target_is_plain(target) =>
        {
            match version {
                b"HTTP/1.1" => Ok(false),
                b"HTTP/1.0" => Ok(true),
                _ if version.starts_with(b"HTTP/") => Err(refusal(505, "expected HTTP/1.1")),
                _ => Err(refusal(400, "the request line ends in no version")),
            }
        }
        _ => Err(refusal(400, "the request line: expected a method, a target and a version")),
    }
}

fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(refusal(400, "a header without a colon"))?;
    if !is_token(&line[..colon]) {
        return Err(refusal(400, "a header's name: expected letters, digits and dashes up to the colon"));
    }
    Ok((&line[..colon], line[colon + 1..].trim_ascii()))
}

fn is_token(word: &[u8]) -> bool {
    !word.is_empty() && word.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Where a chunked body ends. Neither extensions nor trailers are taken: no client needs them here, and both have been used to hide
/// a second message.
#[derive(Default)]
pub struct Chunks {
    state: Chunk,
    size: u64,
    digits: u8,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum Chunk {
    #[default]
    Size,
    SizeEnd,
    Data,
    DataReturn,
    DataEnd,
    LastReturn,
    LastEnd,
    Done,
}

impl Chunks {
    pub fn ended(&self) -> bool {
        self.state == Chunk::Done
    }

    /// How many bytes of `input` belong to the body's framing and data.
    pub fn take(&mut self, input: &[u8]) -> Result<usize, Refusal> {
        let mut at = 0;
        while at < input.len() && !self.ended() {
            if self.state == Chunk::Data {
                let size = self.size.min((input.len() - at) as u64);
                self.size -= size;
                at += size as usize;
                if self.size == 0 {
                    self.state = Chunk::DataReturn;
                }
                continue;
            }
            self.state = match (self.state, input[at]) {
                (Chunk::Size, digit) if digit.is_ascii_hexdigit() && self.digits < 15 => {
                    self.digits += 1;
                    self.size = self.size * 16 + u64::from((digit as char).to_digit(16).unwrap_or(0));
                    Chunk::Size
                }
                (Chunk::Size, b'\r') if self.digits > 0 => Chunk::SizeEnd,
                (Chunk::SizeEnd, b'\n') if self.size > 0 => Chunk::Data,
                (Chunk::SizeEnd, b'\n') => Chunk::LastReturn,
                (Chunk::DataReturn, b'\r') => Chunk::DataEnd,
                (Chunk::DataEnd, b'\n') => {
                    self.digits = 0;
                    Chunk::Size
                }
                (Chunk::LastReturn, b'\r') => Chunk::LastEnd,
                (Chunk::LastEnd, b'\n') => Chunk::Done,
                _ => return Err(refusal(400, "a chunk: expected its size, its bytes, and nothing else")),
            };
            at += 1;
        }
        Ok(at)
    }
}
