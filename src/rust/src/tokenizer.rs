//! Hugging Face's pipeline (added tokens, normalizer, pre-tokenizer, model, post-processor) driven step by step, so that the places
//! where a control token must not be seen can be hidden from the first step and shown to all the others.

use crate::guard::Sentinels;
use crate::text_bound::max_token_bytes;
use crate::token_bytes::{token_bytes, TokenBytes, SPECIAL};
use crate::{Failure, Outcome, Span, Status};
use serde_json::{json, Value as Json};
use std::collections::HashSet;
use tokenizers::tokenizer::{
    AddedToken, AddedVocabulary, Encoding, Model, OffsetReferential, OffsetType, PostProcessor, PreTokenizedString, PreTokenizer,
    Token,
};

pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The same added tokens with the special ones switched off.
    plain: AddedVocabulary,
    special: HashSet<u32>,
    vocab_size: u32,
    byte_fallback: bool,
    /// 0: not known.
    max_token_bytes: usize,
    long: LongText,
}

/// Where very long texts may be cut. Nothing below these sizes is ever cut, so ids are Hugging Face's there; above them a cut falls
/// on a border that no token crosses when there is one within the second half, and anywhere when there is none.
#[derive(Clone, Copy, Default)]
struct LongText {
    /// The pre-tokenizer sees a part of a text as it sees the whole.
    cut_text: bool,
    /// No token has the SentencePiece space after another character, so a word may be cut before it.
    cut_before_space: bool,
}

/// The regex engine gives up after ten million steps at one place, and each split costs some 200 bytes.
const MAX_TEXT: usize = 1 << 20;
/// Merging a word costs n log n with poor locality.
const MAX_WORD: usize = 1 << 16;

/// Cuts where `border(before, after)` holds, or at the limit.
fn cut(text: &str, limit: usize, border: impl Fn(char, char) -> bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    while rest.len() > limit {
        let end = (0..=limit).rev().find(|at| rest.is_char_boundary(*at)).unwrap_or(0);
        let window = &rest[..end];
        let mut after = rest[end..].chars().next().unwrap_or(' ');
        let mut at = end;
        for (before_at, before) in window.char_indices().rev() {
            if border(before, after) {
                at = before_at + before.len_utf8();
                break;
            }
            if before_at < limit / 2 {
                break;
            }
            after = before;
        }
        let (part, tail) = rest.split_at(at);
        parts.push(part);
        rest = tail;
    }
    parts.push(rest);
    parts
}

fn bad_file(error: impl std::fmt::Display) -> Failure {
    Failure::new(Status::BadFile, error.to_string())
}

fn bad_request(error: impl std::fmt::Display) -> Failure {
    Failure::new(Status::BadRequest, error.to_string())
}

/// The parts this engine has; anything else is named instead of failing somewhere inside an untagged union.
const MODELS: [&str; 4] = ["BPE", "Unigram", "WordLevel", "WordPiece"];

fn check_shape(file: &Json) -> Outcome<()> {
    let object = file.as_object().ok_or_else(|| bad_file("expected a JSON object"))?;
    let model = object.get("model").ok_or_else(|| bad_file("model: expected an object, got nothing"))?;
    let model = model.as_object().ok_or_else(|| bad_file("model: expected an object"))?;
    if let Some(kind) = model.get("type") {
        let kind = kind.as_str().ok_or_else(|| bad_file("model.type: expected a string"))?;
        if !MODELS.contains(&kind) {
            let message = format!("model.type: expected one of {}, got \"{kind}\"", MODELS.join(", "));
            return Err(Failure::new(Status::Unsupported, message));
        }
    }
    if !model.contains_key("vocab") {
        return Err(bad_file("model.vocab: expected a vocabulary, got nothing"));
    }
    for token in object.get("added_tokens").and_then(Json::as_array).into_iter().flatten() {
        if token.get("content").and_then(Json::as_str) == Some("") {
            return Err(bad_file("added_tokens: an empty token matches everywhere"));
        }
    }
    Ok(())
}

impl Tokenizer {
    pub fn new(file: &[u8], special_json: &[u8]) -> Outcome<Self> {
        let shape: Json = serde_json::from_slice(file).map_err(bad_file)?;
        check_shape(&shape)?;
        drop(shape);
        let mut inner = tokenizers::Tokenizer::from_bytes(file).map_err(bad_file)?;
        if let tokenizers::ModelWrapper::BPE(bpe) = inner.get_model() {
            if bpe.dropout.is_some() {
                let mut bpe = bpe.clone();
                bpe.dropout = None; // training noise: ids would differ from call to call
                inner.with_model(tokenizers::ModelWrapper::BPE(bpe));
            }
        }
        declare_special(&mut inner, special_json)?;
        let mut plain = inner.get_added_vocabulary().clone();
        plain.set_encode_special_tokens(true);
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let vocab = inner.get_vocab(true);
        let greatest = vocab.values().copied().max();
        let greatest = greatest.ok_or_else(|| bad_file("model.vocab: expected tokens, got none"))?;
        if greatest >= i32::MAX as u32 {
            return Err(bad_file(format!("model.vocab: expected ids below 2^31, got {greatest}")));
        }
        let decoder = serde_json::to_value(inner.get_decoder()).map_err(bad_file)?;
        let byte_fallback = has_type(&decoder, "ByteFallback");
        let splitter = serde_json::to_value(inner.get_pre_tokenizer()).map_err(bad_file)?;
        let cut_text = has_type(&splitter, "ByteLevel") && !has_type(&splitter, "Metaspace") && !prefixes_space(&splitter);
        let cut_before_space = !vocab.keys().any(|token| token.trim_start_matches('▁').contains('▁'));
        let long = LongText { cut_text, cut_before_space };
        let max_token_bytes = max_token_bytes(&inner, vocab.keys()).unwrap_or(0);
        let tokenizer = Tokenizer { inner, plain, special, vocab_size: greatest + 1, byte_fallback, max_token_bytes, long };
        // A broken pattern or a post-processor that names a missing token shows itself on the first text: let it be now.
        tokenizer.encode(b"a 1\n", true, true, &[]).map_err(|e| bad_file(e.message))?;
        Ok(tokenizer)
    }

    pub fn info(&self) -> String {
        let mut added: Vec<(u32, AddedToken)> = self.inner.get_added_tokens_decoder().into_iter().collect();
        added.sort_by_key(|(id, _)| *id);
        let added: Vec<Json> = added.into_iter().map(|(id, token)| json!([id, token.content, token.special])).collect();
        let splitter = serde_json::to_value(self.inner.get_pre_tokenizer()).unwrap_or_default();
        let prefix = splitter.get("add_prefix_space").and_then(Json::as_bool);
        json!({"vocab_size": self.vocab_size, "byte_fallback": self.byte_fallback, "added": added, "add_prefix_space": prefix,
            "max_token_bytes": self.max_token_bytes})
        .to_string()
    }

    /// Bytes that are not UTF-8 become U+FFFD, one for each maximal broken part.
    pub fn encode(&self, text: &[u8], add_special: bool, parse: bool, guards: &[Span]) -> Outcome<Vec<u32>> {
        let text = String::from_utf8_lossy(text);
        let hidden = hide(&text, guards)?;
        let added = if parse { self.inner.get_added_vocabulary() } else { &self.plain };
        let visible = hidden.as_ref().map_or(text.as_ref(), |(hidden, _)| hidden.as_str());
        let mut pieces = added.extract_and_normalize(self.inner.get_normalizer(), visible);
        if let Some((_, sentinels)) = &hidden {
            pieces
                .normalize(|piece| {
                    piece.map(|c| sentinels.original(c));
                    Ok(())
                })
                .map_err(bad_request)?;
        }
        let guarded = !parse || hidden.is_some();
        let encoding = if visible.len() > MAX_TEXT && self.long.cut_text {
            self.split_long(&pieces, guarded)?
        } else {
            self.split(pieces, guarded)?
        };
        match self.inner.get_post_processor() {
            Some(processor) if add_special => {
                Ok(processor.process(encoding, None, true).map_err(bad_request)?.get_ids().to_vec())
            }
            _ => Ok(encoding.get_ids().to_vec()),
        }
    }

    fn split(&self, mut pieces: PreTokenizedString, guarded: bool) -> Outcome<Encoding> {
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(bad_request)?;
        }
        pieces.tokenize(|word| self.word(word.get(), guarded)).map_err(bad_request)?;
        pieces.into_encoding(None, 0, OffsetType::None).map_err(bad_request)
    }

    /// Part by part, so that the splits of one part are gone before the next: a split costs far more than its bytes.
    fn split_long(&self, pieces: &PreTokenizedString, guarded: bool) -> Outcome<Encoding> {
        let mut ids: Vec<u32> = Vec::new();
        for (text, _, tokens) in pieces.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            if let Some(tokens) = tokens {
                ids.extend(tokens.iter().map(|token| token.id));
                continue;
            }
            for part in cut(text, MAX_TEXT, |before, after| before.is_alphanumeric() && after.is_whitespace()) {
                ids.extend_from_slice(self.split(part.into(), guarded)?.get_ids());
            }
        }
        Ok(ids.into_iter().map(|id| (id, String::new(), (0, 0), None, 0)).collect())
    }

    fn word(&self, word: &str, guarded: bool) -> tokenizers::Result<Vec<Token>> {
        if word.len() <= MAX_WORD {
            return self.short_word(word, guarded);
        }
        let mut tokens = Vec::new();
        for part in cut(word, MAX_WORD, |before, after| self.long.cut_before_space && before != '▁' && after == '▁') {
            tokens.extend(self.short_word(part, guarded)?);
        }
        Ok(tokens)
    }

    fn short_word(&self, word: &str, guarded: bool) -> tokenizers::Result<Vec<Token>> {
        if guarded {
            self.words_without_control(word)
        } else {
            self.inner.get_model().tokenize(word)
        }
    }

    /// Some vocabularies hold their control tokens as ordinary entries, so the model itself could make one out of a word that
    /// spells it. Such a word is cut inside the token until none comes out; every cut is shorter than its whole, so this ends.
    fn words_without_control(&self, word: &str) -> tokenizers::Result<Vec<Token>> {
        let mut done = Vec::new();
        let mut todo = vec![word];
        while let Some(part) = todo.pop() {
            let tokens = self.inner.get_model().tokenize(part)?;
            let spelled = tokens.iter().find(|t| {
                // An unknown word gives the unknown token by right; only a word that spells it is refused.
                self.special.contains(&t.id) && part.get(t.offsets.0..t.offsets.1) == Some(t.value.as_str())
            });
            match spelled {
                None => done.extend(tokens),
                Some(token) => {
                    let first = part[token.offsets.0..].chars().next().map_or(0, char::len_utf8);
                    let cut = token.offsets.0 + first;
                    if cut >= part.len() {
                        return Err(format!("control token \"{}\" cannot be spelled as text", token.value).into());
                    }
                    todo.push(&part[cut..]);
                    todo.push(&part[..cut]);
                }
            }
        }
        Ok(done)
    }

    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Outcome<String> {
        if let Some(id) = ids.iter().find(|id| **id >= self.vocab_size) {
            return Err(bad_request(format!("token id: expected one below {}, got {id}", self.vocab_size)));
        }
        self.inner.decode(ids, skip_special).map_err(bad_request)
    }

    pub fn token_bytes(&self) -> Option<TokenBytes> {
        let mut table = token_bytes(&self.inner, self.vocab_size)?;
        for id in &self.special {
            if let Some(kind) = table.kinds.get_mut(*id as usize) {
                *kind |= SPECIAL;
            }
        }
        Some(table)
    }

    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    pub fn token_of(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }
}

/// Sidecar files may declare tokens that tokenizer.json lacks, or with other properties, which transformers lets win; and may name tokens,
/// which then are special. A token is only added under the id it is declared with: a new id would have no row in the model's embedding.
fn declare_special(inner: &mut tokenizers::Tokenizer, special_json: &[u8]) -> Outcome<()> {
    if special_json.is_empty() {
        return Ok(());
    }
    let entries: Vec<Json> = serde_json::from_slice(special_json).map_err(bad_file)?;
    let (declared, named): (Vec<&Json>, Vec<&Json>) = entries.iter().partition(|entry| entry["id"].is_u64());
    let content = |entry: &Json| entry["content"].as_str().unwrap_or_default().to_string();
    let mut names: HashSet<String> = named.into_iter().map(content).filter(|name| !name.is_empty()).collect();
    let added = inner.get_added_tokens_decoder();
    let mut missing = Vec::new();
    for entry in declared {
        let text = content(entry);
        if text.is_empty() {
            continue;
        }
        let flag = |name: &str| entry[name].as_bool().unwrap_or(false);
        let special = names.remove(&text) || flag("special");
        let token = AddedToken::from(text, special)
            .single_word(flag("single_word"))
            .lstrip(flag("lstrip"))
            .rstrip(flag("rstrip"))
            .normalized(flag("normalized"));
        let known = inner.token_to_id(&token.content);
        if known.and_then(|id| added.get(&id)) != Some(&token) {
            missing.push((entry["id"].as_u64().unwrap_or(0), token));
        }
    }
    for name in names {
        let known = inner.token_to_id(&name);
        if let Some(id) = known.filter(|id| !added.get(id).is_some_and(|token| token.special)) {
            missing.push((u64::from(id), AddedToken::from(name, true)));
        }
    }
    missing.sort_by_key(|(id, _)| *id);
    let mut next = inner.get_vocab_size(true) as u64;
    missing.retain(|(id, token)| {
        let known = inner.token_to_id(&token.content).is_some();
        let fits = known || *id == next;
        next += u64::from(fits && !known);
        fits
    });
    if !missing.is_empty() {
        // At once: each call makes the matcher of all tokens anew.
        inner.add_tokens(missing.into_iter().map(|(_, token)| token)).map_err(bad_file)?;
    }
    Ok(())
}

fn prefixes_space(value: &Json) -> bool {
    match value {
        Json::Object(map) => {
            map.get("add_prefix_space").and_then(Json::as_bool).unwrap_or(false) || map.values().any(prefixes_space)
        }
        Json::Array(items) => items.iter().any(prefixes_space),
        _ => false,
    }
}

fn has_type(value: &Json, name: &str) -> bool {
    match value {
        Json::Object(map) => {
            map.get("type").and_then(Json::as_str) == Some(name) || map.values().any(|inner| has_type(inner, name))
        }
        Json::Array(items) => items.iter().any(|inner| has_type(inner, name)),
        _ => false,
    }
}

/// Puts a private character in place of each guarded one, so that no added token matches there.
fn hide(text: &str, guards: &[Span]) -> Outcome<Option<(String, Sentinels)>> {
    if guards.is_empty() {
        return Ok(None);
    }
    let mut sentinels = Sentinels::new(text.chars());
    let mut hidden = String::with_capacity(text.len() + 4 * guards.len());
    let mut done = 0;
    for guard in guards {
        let inside = (guard.begin >= done && guard.begin <= guard.end).then(|| text.get(guard.begin..guard.end)).flatten();
        let inside = inside.ok_or_else(|| bad_request("guarded spans: expected ascending character ranges of the text"))?;
        hidden.push_str(&text[done..guard.begin]);
        for c in inside.chars() {
            hidden.push(sentinels.hide(c).ok_or_else(|| bad_request("guarded spans: no private character left"))?);
        }
        done = guard.end;
    }
    hidden.push_str(&text[done..]);
    Ok(Some((hidden, sentinels)))
}
