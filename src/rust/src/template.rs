//! One chat template: minijinja set up as transformers sets up jinja2, with budgets, and the guard of guard.rs around every string
//! that comes from outside.

use crate::guard::{Origin, Rules, Sentinels};
use crate::messages::{alias_reasoning, read_arguments, takes_text_arguments};
use crate::ops;
use crate::pyjson;
use crate::pystr::python_str;
use crate::{Failure, Outcome, Span, Status, TemplateLimits};
use aho_corasick::AhoCorasick;
use minijinja::machinery::{self, CompiledTemplate, TemplateConfig, Token};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{escape_formatter, AutoEscape, Environment, Error, ErrorKind, State, Value};
use serde_json::{Map, Value as Json};
use std::sync::Arc;

const NAME: &str = "chat";

pub struct Template {
    env: Environment<'static>,
    rules: Rules,
    source: String,
    /// The source that is compiled: generation blocks are scopes.
    prepared: String,
    controls: Option<AhoCorasick>,
    /// It asks itself whether a call's arguments are text.
    knows_text_arguments: bool,
    limits: TemplateLimits,
}

pub struct Input<'a> {
    pub messages: &'a [u8],
    pub tools: &'a [u8],
    pub kwargs: &'a [u8],
    pub named: &'a [u8],
    pub add_generation_prompt: bool,
    pub trust_content: bool,
    pub now: f64,
}

fn bad_request(message: impl Into<String>) -> Failure {
    Failure::new(Status::BadRequest, message)
}

impl Template {
    pub fn new(source: &[u8], control_json: &[u8], limits: TemplateLimits) -> Outcome<Self> {
        let bad_file = |message: String| Failure::new(Status::BadFile, message);
        let source = std::str::from_utf8(source).map_err(|e| bad_file(format!("expected UTF-8: {e}")))?;
        let source = &source.replace("\r\n", "\n").replace('\r', "\n"); // as jinja2's lexer does before anything else
        let controls: Vec<String> = serde_json::from_slice(control_json).map_err(|e| bad_file(e.to_string()))?;
        let prepared = accept_generation_blocks(source);
        let env = environment(limits);
        check_size(&prepared, &env).map_err(bad_file)?;
        compile(&env, &prepared).map_err(|e| bad_file(describe(&e)))?;
        let rules = Rules::new(&controls, source);
        let controls: Vec<&String> = controls.iter().filter(|c| !c.is_empty()).collect();
        let matcher =
            if controls.is_empty() { None } else { Some(AhoCorasick::new(controls).map_err(|e| bad_file(e.to_string()))?) };
        let knows_text_arguments = takes_text_arguments(source);
        Ok(Template { env, rules, source: source.to_string(), prepared, controls: matcher, knows_text_arguments, limits })
    }

    pub fn render(&self, input: &Input) -> Outcome<(String, Vec<Span>)> {
        let (mut messages, tools, kwargs) = self.parse(input)?;
        alias_reasoning(&mut messages);
        if !self.knows_text_arguments {
            read_arguments(&mut messages);
        }
        let mut walker = Walker {
            rules: (!input.trust_content).then_some(&self.rules),
            sentinels: Sentinels::new(
                chars_of(&messages).chain(chars_of(&tools)).chain(chars_of(&kwargs)).chain(self.source.chars()),
            ),
        };
        let mut context = vec![
            ("messages".to_string(), walker.messages(&messages)?),
            ("tools".to_string(), walker.value(&tools, Origin::Content)?),
            ("documents".to_string(), Value::from(())),
            ("add_generation_prompt".to_string(), Value::from(input.add_generation_prompt)),
            ("strftime_now".to_string(), clock(input.now)),
        ];
        for (name, value) in object(parse_json(input.named, "special tokens", self.limits.json_depth)?) {
            context.push((name, Value::from(value.as_str().unwrap_or_default())));
        }
        for (name, value) in object(kwargs) {
            let value = walker.value(&value, Origin::Content)?;
            context.push((name, value)); // later pairs win, as keyword arguments do over special tokens
        }
        pyjson::SENTINELS.with(|s| *s.borrow_mut() = walker.sentinels.all());
        let size = (input.messages.len() + input.tools.len() + input.kwargs.len()) as u64;
        ops::set_weight_limit(size);
        let mut env = self.env.clone();
        // Half a step for each byte of input: enough for a template that reads everything a few times, linear in what was sent.
        env.set_fuel(Some(self.limits.steps.saturating_add(size / 2)));
        let compiled = compile(&env, &self.prepared).map_err(|e| Failure::new(Status::BadFile, describe(&e)))?;
        let mut rendered = String::new();
        let context = Value::from_pairs(context);
        let output = &mut machinery::make_string_output(&mut rendered);
        let outcome =
            machinery::eval(&env, &compiled.instructions, context, &compiled.blocks, output, AutoEscape::None).map(|_| ());
        outcome.map_err(|e| bad_request(describe(&e)))?;
        if rendered.len() > self.limits.output_bytes {
            let limit = self.limits.output_bytes;
            return Err(bad_request(format!("output budget: expected at most {limit} bytes, got {}", rendered.len())));
        }
        Ok(self.reveal(rendered, &walker.sentinels))
    }

    fn parse(&self, input: &Input) -> Outcome<(Json, Json, Json)> {
        let depth = self.limits.json_depth;
        let messages = parse_json(input.messages, "messages", depth)?;
        let list = messages.as_array().ok_or_else(|| bad_request("messages: expected an array"))?;
        if let Some(at) = list.iter().position(|m| !m.is_object()) {
            return Err(bad_request(format!("messages[{at}]: expected an object")));
        }
        let tools = parse_json(input.tools, "tools", depth)?;
        if !tools.is_null() && !tools.is_array() {
            return Err(bad_request("tools: expected an array"));
        }
        let kwargs = parse_json(input.kwargs, "template arguments", depth)?;
        if !kwargs.is_null() && !kwargs.is_object() {
            return Err(bad_request("template arguments: expected an object"));
        }
        Ok((messages, tools, kwargs))
    }

    /// Puts the guarded characters back and keeps the places where a control token would otherwise have been read.
    fn reveal(&self, rendered: String, sentinels: &Sentinels) -> (String, Vec<Span>) {
        if sentinels.is_empty() {
            return (rendered, Vec::new());
        }
        let mut text = String::with_capacity(rendered.len());
        let mut guards: Vec<Span> = Vec::new();
        for c in rendered.chars() {
            let begin = text.len();
            text.push(sentinels.original(c));
            if sentinels.is_sentinel(c) {
                guards.push(Span { begin, end: text.len() });
            }
        }
        let Some(controls) = &self.controls else { return (text, Vec::new()) };
        let mut needed = vec![false; guards.len()];
        for found in controls.find_overlapping_iter(&text) {
            let first = guards.partition_point(|g| g.begin < found.start());
            for (at, guard) in guards.iter().enumerate().skip(first) {
                if guard.begin >= found.end() {
                    break;
                }
                needed[at] = true;
            }
        }
        let kept = guards.into_iter().zip(needed).filter(|(_, needed)| *needed).map(|(guard, _)| guard).collect();
        (text, kept)
    }
}

/// Compiling recurses over the syntax, so one tag must not be too long; and a chain of `elif` is quadratic.
const MAX_TAG_TOKENS: usize = 4096;
const MAX_TAGS: usize = 4096;
/// Constant expressions are worked out while compiling, which no budget covers: `'x' * 1000000`.
const MAX_PRODUCT: u128 = 1_000_000;

fn compile<'a>(env: &Environment, source: &'a str) -> Result<CompiledTemplate<'a>, Error> {
    let config = TemplateConfig { syntax_config: env.syntax().clone(), default_auto_escape: Arc::new(|_| AutoEscape::None) };
    let mut compiled = CompiledTemplate::new(NAME, source, &config)?;
    ops::check_namespaces(&compiled)?;
    ops::redirect(&mut compiled);
    Ok(compiled)
}

fn check_size(source: &str, env: &Environment) -> Result<(), String> {
    let (mut tags, mut tokens, mut product, mut multiplies) = (0, 0, 1u128, false);
    for token in machinery::tokenize(source, false, env.syntax().clone()) {
        match token.map_err(|e| describe(&e))?.0 {
            Token::VariableStart | Token::BlockStart => (tags, tokens, product, multiplies) = (tags + 1, 0, 1, false),
            Token::TemplateData(_) => {}
            token => {
                tokens += 1;
                match token {
                    Token::Mul => multiplies = true,
                    Token::Int(n) => product = product.saturating_mul(u128::from(n).max(1)),
                    Token::Int128(_) => product = u128::MAX,
                    _ => {}
                }
            }
        }
        if multiplies && product > MAX_PRODUCT {
            return Err(format!("source budget: expected products of literals up to {MAX_PRODUCT}"));
        }
        if tokens > MAX_TAG_TOKENS {
            return Err(format!("source budget: expected at most {MAX_TAG_TOKENS} words and signs in one tag"));
        }
        if tags > MAX_TAGS {
            return Err(format!("source budget: expected at most {MAX_TAGS} tags"));
        }
    }
    Ok(())
}

fn object(value: Json) -> Map<String, Json> {
    match value {
        Json::Object(map) => map,
        _ => Map::new(),
    }
}

fn parse_json(text: &[u8], what: &str, max_depth: usize) -> Outcome<Json> {
    if text.is_empty() {
        return Ok(Json::Null);
    }
    let value: Json = serde_json::from_slice(text).map_err(|e| bad_request(format!("{what}: {e}")))?;
    if depth_exceeds(&value, max_depth) {
        return Err(bad_request(format!("{what}: expected at most {max_depth} levels of nesting")));
    }
    Ok(value)
}

fn depth_exceeds(value: &Json, left: usize) -> bool {
    match value {
        Json::Array(items) => left == 0 || items.iter().any(|item| depth_exceeds(item, left - 1)),
        Json::Object(map) => left == 0 || map.values().any(|item| depth_exceeds(item, left - 1)),
        _ => false,
    }
}

fn chars_of(value: &Json) -> Box<dyn Iterator<Item = char> + '_> {
    match value {
        Json::String(text) => Box::new(text.chars()),
        Json::Array(items) => Box::new(items.iter().flat_map(chars_of)),
        Json::Object(map) => Box::new(map.iter().flat_map(|(key, item)| key.chars().chain(chars_of(item)))),
        _ => Box::new(std::iter::empty()),
    }
}

struct Walker<'a> {
    rules: Option<&'a Rules>,
    sentinels: Sentinels,
}

impl Walker<'_> {
    fn messages(&mut self, messages: &Json) -> Outcome<Value> {
        let mut list = Vec::new();
        for message in messages.as_array().into_iter().flatten() {
            let assistant = message.get("role").and_then(Json::as_str) == Some("assistant");
            let origin = if assistant { Origin::Assistant } else { Origin::Content };
            let mut pairs = Vec::new();
            for (key, value) in message.as_object().into_iter().flatten() {
                let origin = if key == "role" { Origin::Role } else { origin };
                pairs.push((self.string(key, Origin::Content)?, self.value(value, origin)?));
            }
            list.push(Value::from_pairs(pairs));
        }
        Ok(Value::from(list))
    }

    fn string(&mut self, text: &str, origin: Origin) -> Outcome<Value> {
        let hidden = match self.rules {
            Some(rules) => rules.protect(text, origin, &mut self.sentinels),
            None => Ok(None),
        };
        let hidden = hidden.map_err(|()| bad_request("messages: every private-use character is taken"))?;
        Ok(hidden.map_or_else(|| Value::from(text), Value::from))
    }

    fn value(&mut self, value: &Json, origin: Origin) -> Outcome<Value> {
        Ok(match value {
            Json::Null => Value::from(()),
            Json::Bool(flag) => Value::from(*flag),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(n), _) => Value::from(n),
                (None, Some(n)) => Value::from(n),
                (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => self.string(text, origin)?,
            Json::Array(items) => {
                let items: Outcome<Vec<Value>> = items.iter().map(|item| self.value(item, origin)).collect();
                Value::from(items?)
            }
            Json::Object(map) => {
                let mut pairs = Vec::with_capacity(map.len());
                for (key, item) in map {
                    pairs.push((self.string(key, origin)?, self.value(item, origin)?));
                }
                Value::from_pairs(pairs)
            }
        })
    }
}

/// One line that names the kind, the reason and the place.
fn describe(error: &Error) -> String {
    let place = error.line().map_or(String::new(), |line| format!(" (line {line})"));
    let detail = error.detail().unwrap_or_default();
    let detail: String = detail.chars().take(400).collect();
    if has_kind(error, ErrorKind::OutOfFuel) {
        return format!("step budget: the template does more work than its budget allows{place}");
    }
    if let Some(message) = detail.strip_prefix(RAISED) {
        return format!("the template refuses these messages: {message}{place}");
    }
    let mut text = if detail.is_empty() { error.kind().to_string() } else { format!("{}: {detail}", error.kind()) };
    let mut source = std::error::Error::source(error);
    for _ in 0..4 {
        let Some(inner) = source else { break };
        let inner_text: String = inner.to_string().chars().take(200).collect();
        text.push_str(&format!("; {inner_text}"));
        source = inner.source();
    }
    text + &place
}

fn has_kind(error: &Error, kind: ErrorKind) -> bool {
    let mut current: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = current {
        if inner.downcast_ref::<Error>().is_some_and(|e| e.kind() == kind) {
            return true;
        }
        current = inner.source();
    }
    false
}

const RAISED: &str = "\u{1}raised: ";

/// `{% generation %}` marks the assistant's words for training masks; for text it is a scope and nothing more.
fn accept_generation_blocks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let tag = &rest[open + 2..];
        let Some(close) = tag.find("%}") else { break };
        let inner = &tag[..close];
        let word = inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let replacement = match word {
            "generation" => Some("with"),
            "endgeneration" => Some("endwith"),
            _ => None,
        };
        out.push_str(&rest[..open + 2]);
        match replacement {
            Some(name) => {
                out.push_str(&inner.replacen(word, name, 1));
                rest = &tag[close..];
            }
            None => rest = tag,
        }
    }
    out.push_str(rest);
    out
}

fn environment(limits: TemplateLimits) -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.expect("the standard delimiters are valid"));
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_recursion_limit(limits.recursion);
    env.set_unknown_method_callback(python_method);
    ops::install(&mut env);
    env.add_filter("tojson", pyjson::tojson);
    env.add_function("raise_exception", |message: Value| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
    });
    env.set_formatter(|out, state, value| match python_str(state, value)? {
        Some(text) => out.write_str(&text).map_err(|_| Error::new(ErrorKind::WriteFailure, "output")),
        None => escape_formatter(out, state, value),
    });
    env.add_filter("string", |state: &mut State, value: Value| -> Result<Value, Error> {
        if value.kind() == ValueKind::String {
            return Ok(value);
        }
        Ok(Value::from(python_str(state, &value)?.unwrap_or_else(|| value.to_string())))
    });
    // Python iterates over a missing value as over nothing, but None is an error.
    env.add_test("iterable", |value: Value| !value.is_none() && value.try_iter().is_ok());
    // jinja2 asks for a length and items by position, which strings have too.
    env.add_test("sequence", |value: Value| matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String));
    env
}

/// Python's string methods copy their text, and some multiply it: every call is paid for before it is made.
fn python_method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let text = value.as_str().unwrap_or_default();
    state.consume_fuel((text.len() / 64 + 1) as u64)?;
    match (method, args) {
        ("replace", [old, new, ..]) => {
            let (old, new) = (old.as_str().unwrap_or_default(), new.as_str().unwrap_or_default());
            let count = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
            state.consume_fuel((count as u64).saturating_mul(new.len() as u64) / 64)?;
        }
        ("join", [items]) => {
            let (mut total, mut count) = (0u64, 0u64);
            for item in items.try_iter()?.checked() {
                let item = item?;
                total += item.as_str().map_or(64, str::len) as u64;
                count += 1;
                if count % 256 == 0 {
                    state.consume_fuel(256)?;
                }
            }
            state.consume_fuel((total + count.saturating_mul(text.len() as u64)) / 64)?;
        }
        // One value for each part, far larger than its bytes.
        ("split", [] | [Value { .. }, ..]) => {
            let separator = args.first().and_then(Value::as_str).unwrap_or(" ");
            let parts = if separator.is_empty() { text.len() } else { text.matches(separator).count() };
            state.consume_fuel(parts as u64)?;
        }
        ("splitlines", _) => state.consume_fuel(text.matches('\n').count() as u64)?,
        _ => {}
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// strftime_now(format) in local time, as Python's datetime.now().strftime.
fn clock(now: f64) -> Value {
    Value::from_function(move |format: &str, _rest: Rest<Value>, _kwargs: Kwargs| -> Result<String, Error> {
        let bad = |what: &str| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {what}"));
        let seconds = if now >= 0.0 {
            now
        } else {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            since.map_err(|_| bad("the clock is before 1970"))?.as_secs_f64()
        };
        let micros = format!("{:06}", (seconds.fract() * 1e6) as u32);
        let format = std::ffi::CString::new(format.replace("%f", &micros)).map_err(|_| bad("NUL in the format"))?;
        let mut out = vec![0u8; 1024];
        // SAFETY: `tm` is plain data that localtime_r fills; `out` is as long as is said.
        let written = unsafe {
            let mut tm: libc::tm = std::mem::zeroed();
            let time = seconds as libc::time_t;
            if libc::localtime_r(&time, &mut tm).is_null() {
                return Err(bad("the time is out of range"));
            }
            libc::strftime(out.as_mut_ptr().cast(), out.len(), format.as_ptr(), &tm)
        };
        if written == 0 && !format.as_bytes().is_empty() {
            return Err(bad("expected at most 1023 bytes of output"));
        }
        out.truncate(written);
        String::from_utf8(out).map_err(|_| bad("the locale gave text that is not UTF-8"))
    })
}
