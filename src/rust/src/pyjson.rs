//! `tojson` as transformers defines it: Python's json.dumps with its separators, number formats and escapes, over template values.
//! Stops where Python's does (a value that is not JSON) and charges the template's budget while it writes.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use std::cell::RefCell;
use std::collections::HashSet;

thread_local! {
    /// Stand-ins for guarded characters: they must not be escaped, or they could not be put back.
    pub static SENTINELS: RefCell<HashSet<char>> = RefCell::new(HashSet::new());
}

/// Python's repr of a float: shortest digits, exponent below 1e-4 and from 1e16 on.
pub fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity".into() } else { "-Infinity".into() };
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let mut plain = format!("{value}");
    if !plain.contains('.') {
        plain.push_str(".0");
    }
    plain
}

struct Writer<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    out: String,
    charged: usize,
    ensure_ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
}

const MAX_DEPTH: usize = 200;

fn not_json(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {what} is not JSON serializable"))
}

impl Writer<'_, '_, '_> {
    /// A structure that shares its parts can be exponentially larger as text, so it is paid for while it is written.
    fn charge(&mut self) -> Result<(), Error> {
        if self.out.len() - self.charged >= 4096 {
            self.state.consume_fuel(((self.out.len() - self.charged) / 4) as u64)?;
            self.charged = self.out.len();
        }
        Ok(())
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if (c as u32) < 0x20 => self.out.push_str(&format!("\\u{:04x}", c as u32)),
                c if self.ensure_ascii && !c.is_ascii() && !SENTINELS.with(|s| s.borrow().contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                // Python's ensure_ascii also escapes DEL; without it, DEL stays.
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    fn scalar(&self, value: &Value) -> Option<String> {
        if value.is_none() {
            return Some("null".into());
        }
        match value.kind() {
            ValueKind::Bool => Some(if value.is_true() { "true" } else { "false" }.into()),
            ValueKind::Number if value.is_integer() => Some(value.to_string()),
            ValueKind::Number => f64::try_from(value.clone()).ok().map(float_repr),
            _ => None,
        }
    }

    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.charge()?;
        self.state.consume_fuel(1)?;
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: nested deeper than {MAX_DEPTH}")));
        }
        if let Some(text) = value.as_str() {
            self.string(text);
            return Ok(());
        }
        if let Some(text) = self.scalar(value) {
            self.out.push_str(&text);
            return Ok(());
        }
        match value.kind() {
            ValueKind::Map => self.map(value, depth),
            ValueKind::Seq | ValueKind::Iterable => self.sequence(value, depth),
            ValueKind::Undefined => Err(not_json("an undefined value")),
            kind => Err(not_json(kind)),
        }
    }

    fn sequence(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.out.push('[');
        let mut empty = true;
        for item in value.try_iter()?.checked() {
            if !empty {
                let separator = self.item.clone();
                self.out.push_str(&separator);
            }
            empty = false;
            self.line(depth + 1);
            self.write(&item?, depth + 1)?;
        }
        if !empty {
            self.line(depth);
        }
        self.out.push(']');
        Ok(())
    }

    fn map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let object = value.as_object().ok_or_else(|| not_json("this map"))?;
        let mut pairs: Vec<(Value, Value)> = object.try_iter_pairs().map(Iterator::collect).unwrap_or_default();
        self.state.consume_fuel(pairs.len() as u64)?;
        if self.sort_keys {
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
        }
        self.out.push('{');
        for (index, (key, item)) in pairs.iter().enumerate() {
            if index > 0 {
                let separator = self.item.clone();
                self.out.push_str(&separator);
            }
            self.line(depth + 1);
            match (key.as_str(), self.scalar(key)) {
                (Some(text), _) => self.string(text),
                (None, Some(text)) => self.string(&text),
                (None, None) => return Err(not_json("a key of this kind")),
            }
            let separator = self.key.clone();
            self.out.push_str(&separator);
            self.write(item, depth + 1)?;
        }
        if !pairs.is_empty() {
            self.line(depth);
        }
        self.out.push('}');
        Ok(())
    }
}

fn indent_of(value: &Value) -> Result<Option<String>, Error> {
    if value.is_none() {
        return Ok(None);
    }
    if let Some(text) = value.as_str() {
        return Ok(Some(text.chars().take(64).collect()));
    }
    let width = i64::try_from(value.clone())?;
    if width > 64 {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: indent: expected at most 64, got {width}")));
    }
    Ok(Some(" ".repeat(width.max(0) as usize)))
}

/// tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)
pub fn tojson(state: &State, value: Value, positional: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let take = |name: &str, at: usize| -> Result<Option<Value>, Error> {
        let named: Option<Value> = kwargs.get(name)?;
        Ok(named.or_else(|| positional.get(at).cloned()))
    };
    let ensure_ascii = take("ensure_ascii", 0)?.is_some_and(|v| v.is_true());
    let indent = take("indent", 1)?.map_or(Ok(None), |v| indent_of(&v))?;
    let separators = take("separators", 2)?.filter(|v| !v.is_none());
    let sort_keys = take("sort_keys", 3)?.is_some_and(|v| v.is_true());
    kwargs.assert_all_used()?;
    let (mut item, mut key) = (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string());
    if let Some(pair) = separators {
        let part = |at| pair.get_item_by_index(at).ok().and_then(|v| v.as_str().map(str::to_string));
        let expected = || Error::new(ErrorKind::InvalidOperation, "tojson: separators: expected two strings");
        item = part(0).ok_or_else(expected)?;
        key = part(1).ok_or_else(expected)?;
        if item.len() > 64 || key.len() > 64 {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators: expected at most 64 bytes"));
        }
    }
    let mut writer = Writer { state, out: String::new(), charged: 0, ensure_ascii, indent, item, key, sort_keys };
    writer.write(&value, 0)?;
    let rest = writer.out.len() - writer.charged;
    state.consume_fuel((rest / 4) as u64)?;
    Ok(Value::from(writer.out))
}

#[cfg(test)]
mod tests {
    use super::float_repr;

    #[test]
    fn floats_read_as_in_python() {
        for (value, text) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (1e15, "1000000000000000.0"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-2.5e-7, "-2.5e-07"),
            (1e22, "1e+22"),
            (-0.0, "-0.0"),
        ] {
            assert_eq!(float_repr(value), text);
        }
    }
}
