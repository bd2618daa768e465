//! How many bytes of a text one token can stand for at most: it lets a text that is far too long be refused before it is tokenized.

use serde_json::Value as Json;
use tokenizers::{Model, ModelWrapper};

/// Normalizing makes a text at most so many times shorter. None: nobody knows.
fn shrinks(normalizer: &Json) -> Option<usize> {
    match normalizer["type"].as_str() {
        None | Some("Prepend") => Some(1),
        // Decomposing leaves a third of a character's bytes at least (U+1FEF), composing a third of a sequence's (Hangul).
        Some("NFC") => Some(9),
        Some("Replace") => {
            let (from, to) = (normalizer["pattern"]["String"].as_str()?, normalizer["content"].as_str()?);
            (from.len() <= to.len()).then_some(1)
        }
        Some("Sequence") => normalizer["normalizers"].as_array()?.iter().map(shrinks).product(),
        _ => None,
    }
}

/// Whether all of a text reaches the model.
fn keeps_all(pre_tokenizer: &Json) -> bool {
    match pre_tokenizer["type"].as_str() {
        None | Some("ByteLevel" | "Metaspace" | "Digits") => true,
        Some("Split") => pre_tokenizer["behavior"].as_str().is_some_and(|behavior| behavior != "Removed"),
        Some("Sequence") => pre_tokenizer["pretokenizers"].as_array().is_some_and(|parts| parts.iter().all(keeps_all)),
        _ => false,
    }
}

fn has_byte_level(pre_tokenizer: &Json) -> bool {
    let parts = pre_tokenizer["pretokenizers"].as_array();
    pre_tokenizer["type"] == "ByteLevel" || parts.is_some_and(|parts| parts.iter().any(has_byte_level))
}

/// None where one token may stand for any amount of text: an unknown word, blanks that are dropped, what no token spells.
pub fn max_token_bytes<'a>(inner: &tokenizers::Tokenizer, vocab: impl Iterator<Item = &'a String>) -> Option<usize> {
    let normalizer = serde_json::to_value(inner.get_normalizer()).ok()?;
    let pre_tokenizer = serde_json::to_value(inner.get_pre_tokenizer()).ok()?;
    let factor = shrinks(&normalizer)?;
    let ModelWrapper::BPE(bpe) = inner.get_model() else { return None };
    let added = inner.get_added_tokens_decoder();
    if !keeps_all(&pre_tokenizer) || added.values().any(|token| token.lstrip || token.rstrip) {
        return None;
    }
    let byte_level = has_byte_level(&pre_tokenizer);
    let every_byte = if byte_level {
        tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().iter().all(|c| bpe.token_to_id(&c.to_string()).is_some())
    } else {
        bpe.byte_fallback && (0..=255u8).all(|byte| bpe.token_to_id(&format!("<0x{byte:02X}>")).is_some())
    };
    if !every_byte {
        return None;
    }
    // A character of the byte-level alphabet is one byte of the text.
    let bytes = |token: &String| if byte_level { token.chars().count() } else { token.len() };
    let longest = vocab.map(bytes).max()?;
    let longest = added.values().map(|token| token.content.len()).fold(longest, usize::max);
    Some(longest * factor)
}
