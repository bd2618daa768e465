//! Origin tracking for message content. A character of content at which a control token could begin is replaced by a private-use
//! character before rendering and put back afterwards; where it was is handed to the tokenizer. One character stands for one, so
//! lengths, slices and comparisons between contents do not change, and the final text is byte for byte the unguarded one.
//!
//! What a template looks for in content must stay visible: a character is left alone where a literal of the template begins
//! (`'</think>'`), unless a control token begins there too. Literals that are, or begin, a control token give no such right.

use std::collections::{HashMap, HashSet};

/// Private-use characters, one for each hidden one, none of which occurs in the text.
pub struct Sentinels {
    used: HashSet<char>,
    next: u32,
    hidden: HashMap<char, char>,
    original: HashMap<char, char>,
}

const FIRST: u32 = 0xF0000;
const LAST: u32 = 0x10FFFD;

impl Sentinels {
    /// `taken`: every character of everything that can reach the text.
    pub fn new(taken: impl Iterator<Item = char>) -> Self {
        let used = taken.filter(|c| *c as u32 >= FIRST).collect();
        Sentinels { used, next: FIRST, hidden: HashMap::new(), original: HashMap::new() }
    }

    /// None when hostile input has used up all 131,068 private characters.
    pub fn hide(&mut self, c: char) -> Option<char> {
        if let Some(sentinel) = self.hidden.get(&c) {
            return Some(*sentinel);
        }
        while self.next <= LAST {
            let candidate = char::from_u32(self.next);
            self.next += 1;
            match candidate {
                Some(sentinel) if !self.used.contains(&sentinel) && sentinel as u32 & 0xFFFE != 0xFFFE => {
                    self.hidden.insert(c, sentinel);
                    self.original.insert(sentinel, c);
                    return Some(sentinel);
                }
                _ => {}
            }
        }
        None
    }

    pub fn original(&self, c: char) -> char {
        if (c as u32) < FIRST {
            return c;
        }
        self.original.get(&c).copied().unwrap_or(c)
    }

    pub fn is_sentinel(&self, c: char) -> bool {
        c as u32 >= FIRST && self.original.contains_key(&c)
    }

    pub fn all(&self) -> HashSet<char> {
        self.original.keys().copied().collect()
    }

    pub fn is_empty(&self) -> bool {
        self.original.is_empty()
    }
}

/// What of content must be hidden from one template, worked out when the template is loaded.
pub struct Rules {
    controls: HashMap<char, Vec<String>>,
    /// Literals that the template may look for in content, by first character.
    literals: HashMap<char, Vec<String>>,
    /// Ends of control tokens whose beginning the template writes itself: `'<' ~ key ~ '>'` with the key `|im_start|`.
    tails: HashMap<char, Vec<String>>,
    /// Control tokens that the template takes apart (`split`, `in`, ...): visible in the assistant's own messages.
    inspected: HashSet<String>,
}

/// Where a string stands in the input.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Content,
    /// The model's own words: markers that the template inspects stay visible.
    Assistant,
    /// Chosen from a short list by the program; templates build control tokens around it (`'<|' ~ role ~ '|>'`).
    Role,
}

impl Rules {
    pub fn new(controls: &[String], source: &str) -> Self {
        let parts = Parts::of(source);
        let mut rules =
            Rules { controls: HashMap::new(), literals: HashMap::new(), tails: HashMap::new(), inspected: HashSet::new() };
        for control in controls {
            let Some(first) = control.chars().next() else { continue };
            rules.controls.entry(first).or_default().push(control.clone());
            if inspects(source, control) {
                rules.inspected.insert(control.clone());
            }
            for (cut, _) in control.char_indices().skip(1) {
                let (head, tail) = control.split_at(cut);
                let written = parts.raw.iter().chain(&parts.literals).any(|text| text.ends_with(head));
                let tails = rules.tails.entry(tail.chars().next().unwrap()).or_default();
                if written && !tails.iter().any(|known| known == tail) {
                    tails.push(tail.to_string());
                }
            }
        }
        for literal in parts.literals {
            let related = controls.iter().any(|c| literal.contains(c.as_str()) || c.starts_with(&literal));
            if let (Some(first), false) = (literal.chars().next(), related) {
                rules.literals.entry(first).or_default().push(literal);
            }
        }
        rules
    }

    /// Hides in `text` what must not begin a control token. None when nothing has to be hidden; Err when no private character is left.
    pub fn protect(&self, text: &str, origin: Origin, sentinels: &mut Sentinels) -> Result<Option<String>, ()> {
        let mut hidden: Option<String> = None;
        let mut copied = 0;
        for (at, c) in text.char_indices() {
            let rest = &text[at..];
            let begins = self.controls.contains_key(&c) && self.must_hide(c, rest, origin);
            let continues = at == 0 && origin != Origin::Role && self.continues(c, rest);
            if begins || continues {
                let out = hidden.get_or_insert_with(|| String::with_capacity(text.len() + 16));
                out.push_str(&text[copied..at]);
                out.push(sentinels.hide(c).ok_or(())?);
                copied = at + c.len_utf8();
            }
        }
        if let Some(out) = &mut hidden {
            out.push_str(&text[copied..]);
        }
        Ok(hidden)
    }

    fn must_hide(&self, c: char, rest: &str, origin: Origin) -> bool {
        // Nearly every character ends here: hostile content is long and has many of them.
        let literal = self.begins_literal(c, rest);
        if !literal && (origin != Origin::Assistant || self.inspected.is_empty()) {
            return true;
        }
        let controls = &self.controls[&c];
        let spelled = controls.iter().filter(|control| rest.starts_with(control.as_str()));
        let mut spelled = spelled.map(|control| origin == Origin::Assistant && self.inspected.contains(control)).peekable();
        if spelled.peek().is_some() {
            return !spelled.all(|visible| visible);
        }
        // The beginning of a token at the end of a string: the next string may bring the rest.
        if controls.iter().any(|control| control.starts_with(rest)) {
            return true;
        }
        !literal
    }

    fn continues(&self, c: char, text: &str) -> bool {
        let tails = self.tails.get(&c);
        let continues = tails.is_some_and(|tails| tails.iter().any(|t| text.starts_with(t.as_str()) || t.starts_with(text)));
        continues && !self.begins_literal(c, text)
    }

    fn begins_literal(&self, c: char, text: &str) -> bool {
        self.literals.get(&c).is_some_and(|literals| literals.iter().any(|literal| text.starts_with(literal.as_str())))
    }
}

/// Whether the template asks if content holds this token: `'T' in x`, `x.split('T')` and the like.
fn inspects(source: &str, token: &str) -> bool {
    const CALLS: [&str; 9] = ["split", "rsplit", "startswith", "endswith", "replace", "find", "index", "partition", "rpartition"];
    source.match_indices(token).any(|(at, _)| {
        let (before, after) = (&source[..at], &source[at + token.len()..]);
        let Some(quote) = before.chars().next_back().filter(|q| *q == '\'' || *q == '"') else { return false };
        let Some(after) = after.strip_prefix(quote) else { return false };
        let before = before[..before.len() - 1].trim_end();
        let after = after.trim_start();
        let called = before.strip_suffix('(').is_some_and(|call| CALLS.iter().any(|name| call.trim_end().ends_with(name)));
        called || after.starts_with("in ") || after.starts_with("not in ")
    })
}

/// The text that a template holds: what it prints as it stands, and its string literals.
struct Parts {
    raw: Vec<String>,
    literals: Vec<String>,
}

impl Parts {
    fn of(source: &str) -> Self {
        let mut parts = Parts { raw: Vec::new(), literals: Vec::new() };
        let mut rest = source;
        while let Some(open) = rest.find("{{").into_iter().chain(rest.find("{%")).chain(rest.find("{#")).min() {
            parts.push_raw(&rest[..open]);
            let kind = rest.as_bytes()[open + 1];
            rest = &rest[open + 2..];
            if kind == b'#' {
                rest = rest.find("#}").map_or("", |end| &rest[end + 2..]);
            } else {
                rest = parts.scan_tag(rest, if kind == b'{' { "}}" } else { "%}" });
            }
        }
        parts.push_raw(rest);
        parts
    }

    fn push_raw(&mut self, text: &str) {
        if !text.is_empty() {
            self.raw.push(text.to_string());
            // Whitespace control may take the blanks away.
            self.raw.push(text.trim_end().to_string());
        }
    }

    /// Collects literals up to the end of the tag and returns what follows it.
    fn scan_tag<'a>(&mut self, text: &'a str, close: &str) -> &'a str {
        let mut chars = text.char_indices();
        while let Some((at, c)) = chars.next() {
            if text[at..].starts_with(close) {
                return &text[at + close.len()..];
            }
            if c != '\'' && c != '"' {
                continue;
            }
            let mut literal = String::new();
            while let Some((_, inner)) = chars.next() {
                match inner {
                    '\\' => match chars.next() {
                        Some((_, 'n')) => literal.push('\n'),
                        Some((_, 't')) => literal.push('\t'),
                        Some((_, 'r')) => literal.push('\r'),
                        Some((_, other)) => literal.push(other),
                        None => break,
                    },
                    end if end == c => break,
                    other => literal.push(other),
                }
            }
            self.literals.push(literal);
        }
        ""
    }
}
