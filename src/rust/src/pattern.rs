//! Patterns for names of modules, matched as Python's `re` does (see pattern.h), by fancy-regex: in time linear in the name, and
//! with look-around and back-references by steps back, up to a limit.
//!
//! The two syntaxes differ in what letters after a backslash mean, in brackets and braces, in `$`, and in what is an error. So a
//! pattern is read token by token as CPython's Lib/re/_parser.py (3.11) does, and written anew, with every literal spelt so that it
//! can mean nothing else. How tokens nest is left to fancy-regex.

use crate::{guarded, Buffer, Failure, Outcome, Status, View};
use fancy_regex::{Error, ParseError, Regex, RegexBuilder};

const MAX_BYTES: usize = 8192;
const MAX_REPEATS: usize = 1000;
const MAX_COST: usize = 100_000;
const PROGRAM_BYTES: usize = 2 << 20;
/// Far more than any pattern takes that was meant for names.
const STEPS_BACK: usize = 50_000;
/// A pattern that goes back is worth this many others.
const BACKTRACKING_COST: usize = 4;

fn broken(what: impl Into<String>) -> Failure {
    Failure::new(Status::BadConfig, what)
}

fn refused(what: impl std::fmt::Display) -> Failure {
    Failure::new(Status::Unsupported, format!("{what} is not supported: name the modules in a list instead"))
}

/// What a quantifier would repeat.
#[derive(Clone, Copy, PartialEq)]
enum Last {
    Nothing,
    Item,
    Repetition,
}

/// What a backslash stands for.
enum Escape {
    Literal(char),
    Class(&'static str),
}

struct Translation {
    rest: std::iter::Peekable<std::vec::IntoIter<char>>,
    out: String,
    last: Last,
    repeats: usize,
    backtracks: bool,
}

impl Translation {
    fn of(text: &str) -> Outcome<Self> {
        let rest = text.chars().collect::<Vec<_>>().into_iter().peekable();
        let mut all = Translation { rest, out: String::new(), last: Last::Nothing, repeats: 1, backtracks: false };
        while let Some(c) = all.rest.next() {
            all.token(c)?;
        }
        Ok(all)
    }

    fn token(&mut self, c: char) -> Outcome<()> {
        match c {
            '(' => self.open(),
            ')' => self.item(")"),
            '[' => self.brackets(),
            '\\' => self.escape(),
            '|' => self.nothing("|"),
            '^' => self.nothing(r"\A"),
            '$' => self.nothing(r"\z"), // names have no line breaks, before the last of which it would match too
            '.' => self.item("."),
            '*' => self.quantifier("*"),
            '+' => self.quantifier("+"),
            '?' => self.quantifier("?"),
            '{' => match self.counts()? {
                Some(counts) => self.quantifier(&counts),
                None => self.item(&spelt('{')),
            },
            c => self.item(&spelt(c)),
        }
    }

    fn write(&mut self, text: &str, last: Last) -> Outcome<()> {
        self.out.push_str(text);
        self.last = last;
        Ok(())
    }
    fn item(&mut self, text: &str) -> Outcome<()> {
        self.write(text, Last::Item)
    }
    fn nothing(&mut self, text: &str) -> Outcome<()> {
        self.write(text, Last::Nothing)
    }

    fn eat(&mut self, wanted: char) -> bool {
        self.rest.next_if_eq(&wanted).is_some()
    }

    fn take_while(&mut self, most: usize, wanted: impl Fn(char) -> bool) -> String {
        let mut found = String::new();
        for _ in 0..most {
            let Some(c) = self.rest.next_if(|c| wanted(*c)) else { break };
            found.push(c);
        }
        found
    }

    fn quantifier(&mut self, text: &str) -> Outcome<()> {
        match self.last {
            Last::Nothing => return Err(broken("nothing to repeat")),
            Last::Repetition => return Err(broken("a repetition of a repetition")),
            Last::Item => self.write(text, Last::Repetition)?,
        }
        if self.eat('?') {
            self.out.push('?');
        } else if self.eat('+') {
            if text.starts_with('{') {
                return Err(refused("'+' after '{}'"));
            }
            self.backtracks = true;
            self.out.push('+');
        }
        Ok(())
    }

    /// {m}, {m,}, {,n}, {m,n}, {,}; anything else in braces is literal text.
    fn counts(&mut self) -> Outcome<Option<String>> {
        let rest = self.rest.clone();
        let low = self.take_while(MAX_BYTES, |c| c.is_ascii_digit());
        let comma = self.eat(',');
        let high = if comma { self.take_while(MAX_BYTES, |c| c.is_ascii_digit()) } else { low.clone() };
        if !self.eat('}') || (low.is_empty() && !comma) {
            self.rest = rest;
            return Ok(None);
        }
        let number = |digits: &str, absent| if digits.is_empty() { absent } else { digits.parse().unwrap_or(usize::MAX) };
        let (least, most) = (number(&low, 0), number(&high, 0));
        if least.max(most) > MAX_REPEATS {
            return Err(broken(format!("a repetition of more than {MAX_REPEATS}")));
        }
        if most < least && !high.is_empty() {
            return Err(broken("a repetition whose maximum is below its minimum"));
        }
        self.repeats = self.repeats.saturating_mul(least.max(most).max(1));
        Ok(Some(if high.is_empty() { format!("{{{least},}}") } else { format!("{{{least},{most}}}") }))
    }

    fn open(&mut self) -> Outcome<()> {
        if !self.eat('?') {
            return self.nothing("(");
        }
        let mut kind = self.take_while(1, |_| true);
        if kind == "<" || kind == "P" {
            kind += &self.take_while(1, |c| "<=!".contains(c));
        }
        match kind.as_str() {
            ":" => self.nothing("(?:"),
            "=" | "!" | "<=" | "<!" | ">" => {
                self.backtracks = true;
                self.nothing(&format!("(?{kind}"))
            }
            "P<" => {
                let name = self.name('>')?;
                if self.out.contains(&format!("(?P<{name}>")) {
                    return Err(broken("two groups of one name"));
                }
                self.nothing(&format!("(?P<{name}>"))
            }
            "P=" => {
                self.backtracks = true;
                let name = self.name(')')?;
                self.item(&format!("(?P={name})"))
            }
            "#" => {
                self.take_while(MAX_BYTES, |c| c != ')');
                self.eat(')').then_some(()).ok_or_else(|| broken("a comment without ')'"))
            }
            "(" => Err(refused("a condition on a group")),
            kind if kind == "-" || kind.starts_with(|c: char| c.is_ascii_alphabetic() && c != 'P') => self.flags(kind),
            kind => Err(broken(format!("a group that begins with '(?{}'", kind.escape_default()))),
        }
    }

    fn name(&mut self, end: char) -> Outcome<String> {
        let name = self.take_while(MAX_BYTES, |c| c.is_alphanumeric() || c == '_');
        if !self.eat(end) || name.is_empty() || name.starts_with(|c: char| c.is_numeric()) {
            return Err(broken("a group whose name is no identifier"));
        }
        Ok(name)
    }

    /// `(?i)`, `(?s-i:`: the flags of the whole, or of one group.
    fn flags(&mut self, first: &str) -> Outcome<()> {
        let flags = first.to_string() + &self.take_while(MAX_BYTES, |c| c != ':' && c != ')');
        let closed = self.eat(')');
        let (on, off) = flags.split_once('-').unwrap_or((&flags, ""));
        if let Some(c) = flags.chars().find(|c| "amx".contains(*c)) {
            return Err(refused(format!("the flag '{c}'")));
        }
        let known = on.chars().all(|c| "isu".contains(c)) && off.chars().all(|c| "is".contains(c) && !on.contains(c));
        if !known || (flags.contains('-') && (closed || off.is_empty())) || !(closed || self.eat(':')) {
            return Err(broken(format!("a group that begins with '(?{}'", flags.escape_default())));
        }
        let of = |list: &str, sign: &str| {
            let of = |c: char| if list.contains(c) { format!("{sign}{c}") } else { String::new() };
            of('i') + &of('s')
        };
        let written = of(on, "") + &if off.is_empty() { String::new() } else { format!("-{}", of(off, "")) };
        match closed {
            false => self.nothing(&format!("(?{written}:")),
            true if !self.out.split_terminator(')').all(|flags| matches!(flags, "(?i" | "(?s" | "(?is")) => {
                Err(broken("flags of the whole pattern after its beginning"))
            }
            true if written.is_empty() => Ok(()),
            true => self.write(&format!("(?{written})"), self.last),
        }
    }

    fn escape(&mut self) -> Outcome<()> {
        match self.rest.peek() {
            Some('A' | 'b' | 'B') => {
                let position = format!("\\{}", self.take_while(1, |_| true));
                self.nothing(&position)
            }
            Some('Z') => {
                self.rest.next();
                self.nothing(r"\z")
            }
            Some('1'..='9') => {
                let ahead: Vec<char> = self.rest.clone().take(3).collect();
                if ahead.len() == 3 && ahead.iter().all(|c| matches!(c, '0'..='7')) {
                    let c = self.octal()?;
                    return self.item(&spelt(c));
                }
                self.backtracks = true;
                let group = self.take_while(2, |c| c.is_ascii_digit());
                self.item(&format!(r"(?:\{group})"))
            }
            _ => match self.escaped()? {
                Escape::Literal(c) => self.item(&spelt(c)),
                Escape::Class(class) => self.item(class),
            },
        }
    }

    fn octal(&mut self) -> Outcome<char> {
        let digits = self.take_while(3, |c| matches!(c, '0'..='7'));
        let code = u8::from_str_radix(&digits, 8).map(char::from);
        code.map_err(|_| broken("an octal escape above 0o377"))
    }

    fn hex(&mut self, digits: usize) -> Outcome<char> {
        let found = self.take_while(digits, |c| c.is_ascii_hexdigit());
        let code = u32::from_str_radix(&found, 16).ok().filter(|_| found.len() == digits);
        code.and_then(char::from_u32).ok_or_else(|| broken("an escape that is no character"))
    }

    /// What means the same in brackets and out of them.
    fn escaped(&mut self) -> Outcome<Escape> {
        Ok(Escape::Literal(match self.rest.peek().copied().ok_or_else(|| broken("it ends in a backslash"))? {
            '0' => self.octal()?,
            c => {
                self.rest.next();
                match c {
                    'd' => return Ok(Escape::Class(r"\d")),
                    'D' => return Ok(Escape::Class(r"\D")),
                    's' => return Ok(Escape::Class(r"[\s\x1c-\x1f]")),
                    'S' => return Ok(Escape::Class(r"[^\s\x1c-\x1f]")),
                    'w' => return Ok(Escape::Class(r"[\p{L}\p{N}_]")),
                    'W' => return Ok(Escape::Class(r"[^\p{L}\p{N}_]")),
                    'a' => '\x07',
                    'f' => '\x0c',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'v' => '\x0b',
                    'x' => self.hex(2)?,
                    'u' => self.hex(4)?,
                    'U' => self.hex(8)?,
                    'N' => return Err(refused("the escape '\\N'")),
                    c if c.is_ascii_alphanumeric() => return Err(broken(format!("the escape '\\{c}'"))),
                    c => c,
                }
            }
        }))
    }

    fn brackets(&mut self) -> Outcome<()> {
        let negated = self.eat('^');
        self.item(if negated { "[^" } else { "[" })?;
        for is_first in std::iter::once(true).chain(std::iter::repeat(false)) {
            if !is_first && self.eat(']') {
                break;
            }
            let low = self.bracketed()?;
            let mut rest = self.rest.clone();
            let is_range = rest.next() == Some('-') && rest.next().is_some_and(|c| c != ']');
            match low {
                Escape::Literal(low) if is_range => {
                    self.rest.next();
                    let Escape::Literal(high) = self.bracketed()? else { return Err(broken("a range in '[]' with a class")) };
                    if high < low {
                        return Err(broken("a range in '[]' that runs backwards"));
                    }
                    self.out += &format!("{}-{}", spelt(low), spelt(high));
                }
                Escape::Class(_) if is_range => return Err(broken("a range in '[]' with a class")),
                Escape::Literal(c) => self.out += &spelt(c),
                Escape::Class(class) => self.out += class,
            }
        }
        self.item("]")
    }

    fn bracketed(&mut self) -> Outcome<Escape> {
        match self.rest.next().ok_or_else(|| broken("a '[' without ']'"))? {
            '\\' if self.eat('b') => Ok(Escape::Literal('\x08')),
            '\\' if matches!(self.rest.peek(), Some('1'..='7')) => Ok(Escape::Literal(self.octal()?)),
            '\\' => self.escaped(),
            c => Ok(Escape::Literal(c)),
        }
    }
}

/// A character that means itself, in brackets and out of them.
fn spelt(c: char) -> String {
    if c.is_alphanumeric() {
        c.to_string()
    } else {
        format!("\\x{{{:x}}}", c as u32)
    }
}

pub struct Pattern(Regex);

impl Pattern {
    fn new(text: &[u8]) -> Outcome<(Self, usize)> {
        let text = std::str::from_utf8(text).map_err(|_| broken("expected UTF-8"))?;
        if text.len() > MAX_BYTES {
            return Err(broken(format!("too long: expected at most {MAX_BYTES} bytes, got {}", text.len())));
        }
        let translation = Translation::of(text)?;
        let weight = if translation.backtracks { BACKTRACKING_COST } else { 1 };
        let cost = (text.len() + 1).saturating_mul(translation.repeats).saturating_mul(weight);
        if cost > MAX_COST {
            return Err(broken("too large: expected fewer repetitions"));
        }
        let built = RegexBuilder::new(&format!(r"\A(?:{})\z", translation.out))
            .backtrack_limit(STEPS_BACK)
            .delegate_size_limit(PROGRAM_BYTES)
            .max_prog_size(MAX_COST)
            .optimize(false)
            .build();
        let regex = built.map_err(|error| match error {
            Error::ParseError(_, ParseError::TargetNotRepeatable) => refused("a repetition of what takes no characters"),
            Error::ParseError(_, error) => broken(error.to_string()), // its position is that of the translation
            error => broken(error.to_string()),
        })?;
        Ok((Pattern(regex), cost))
    }

    fn matches(&self, name: &[u8]) -> Outcome<bool> {
        let text = std::str::from_utf8(name).ok().filter(|text| !text.contains('\n'));
        let text = text.ok_or_else(|| broken("expected a name in UTF-8 without line breaks"))?;
        self.0.is_match(text).map_err(|_| refused(format!("a pattern that goes back more than {STEPS_BACK} times")))
    }
}

#[no_mangle]
pub unsafe extern "C" fn bb_pattern_new(text: View, out: *mut *mut Pattern, cost: *mut usize, error: *mut Buffer<u8>) -> Status {
    guarded(error, Status::Unsupported, || {
        let (pattern, steps) = Pattern::new(text.bytes())?;
        *cost = steps;
        *out = Box::into_raw(Box::new(pattern));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn bb_pattern_free(pattern: *mut Pattern) {
    if !pattern.is_null() {
        drop(Box::from_raw(pattern));
    }
}

#[no_mangle]
pub unsafe extern "C" fn bb_pattern_matches(
    pattern: *const Pattern,
    name: View,
    out: *mut i32,
    error: *mut Buffer<u8>,
) -> Status {
    guarded(error, Status::Unsupported, || {
        *out = i32::from((*pattern).matches(name.bytes())?);
        Ok(())
    })
}
