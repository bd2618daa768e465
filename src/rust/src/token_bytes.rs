//! What each token adds to a text, as bytes, for decoders whose text is these bytes one after the other: byte-level ones, and
//! SentencePiece's (replace, byte fallback, fuse, strip at the start). Others look at neighbours, and have no such table.

use serde_json::Value as Json;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::tokenizer::Decoder;
use tokenizers::Model;

/// Kinds of a token; the header has the same.
pub const TEXT: u8 = 0;
pub const FALLBACK_BYTE: u8 = 1;
pub const NOTHING: u8 = 2;
pub const SPECIAL: u8 = 4;

#[derive(Default)]
pub struct TokenBytes {
    pub kinds: Vec<u8>,
    pub ends: Vec<u32>,
    pub bytes: Vec<u8>,
    /// So many of these characters at most are dropped at the start of a text.
    pub strip: Option<(char, usize)>,
}

/// Ids of real models are dense; a file with an id of two billion would cost memory.
const MAX_IDS: u32 = 1 << 22;

/// A replacement within one token. Most are of a text, for which no regex is needed.
enum Map<'a> {
    Text(String, String),
    Other(&'a DecoderWrapper),
}

impl<'a> Map<'a> {
    fn new(replace: &'a DecoderWrapper) -> Self {
        let file = serde_json::to_value(replace).unwrap_or_default();
        match (&file["pattern"]["String"], &file["content"]) {
            (Json::String(from), Json::String(to)) if !from.is_empty() => Map::Text(from.clone(), to.clone()),
            _ => Map::Other(replace),
        }
    }

    fn apply(&self, token: String) -> Option<String> {
        match self {
            Map::Text(from, to) if token.contains(from) => Some(token.replace(from, to)),
            Map::Text(..) => Some(token),
            Map::Other(decoder) => decoder.decode_chain(vec![token]).ok().map(|texts| texts.concat()),
        }
    }
}

enum Kind<'a> {
    ByteLevel,
    SentencePiece { maps: Vec<Map<'a>>, fallback: bool, strip: Option<(char, usize)> },
}

fn kind_of(decoder: &DecoderWrapper) -> Option<Kind<'_>> {
    let parts = match decoder {
        DecoderWrapper::Sequence(sequence) => sequence.get_decoders(),
        one => std::slice::from_ref(one),
    };
    if let [DecoderWrapper::ByteLevel(_)] = parts {
        return Some(Kind::ByteLevel);
    }
    let count = parts.iter().take_while(|part| matches!(part, DecoderWrapper::Replace(_))).count();
    let (maps, rest) = parts.split_at(count);
    let (fallback, rest) = match rest {
        [DecoderWrapper::ByteFallback(_), rest @ ..] => (true, rest),
        _ => (false, rest),
    };
    let strip = match rest {
        [] | [DecoderWrapper::Fuse(_)] => None,
        [DecoderWrapper::Fuse(_), DecoderWrapper::Strip(strip)] if strip.stop == 0 => Some((strip.content, strip.start)),
        _ => return None,
    };
    Some(Kind::SentencePiece { maps: maps.iter().map(Map::new).collect(), fallback, strip })
}

/// The byte-level alphabet, by character: printable ones stand for themselves, other bytes for characters from U+0100.
fn bytes_of_chars() -> Vec<Option<u8>> {
    let mut alphabet = vec![None; 0x100];
    for byte in 0..=255u8 {
        match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => alphabet[usize::from(byte)] = Some(byte),
            _ => alphabet.push(Some(byte)),
        }
    }
    alphabet
}

/// None where the decoder does not allow it, or does not decode.
pub fn token_bytes(inner: &tokenizers::Tokenizer, vocab_size: u32) -> Option<TokenBytes> {
    if vocab_size > MAX_IDS {
        return None;
    }
    let kind = kind_of(inner.get_decoder()?)?;
    let alphabet = bytes_of_chars();
    let added = inner.get_added_vocabulary();
    let mut table = TokenBytes::default();
    for id in 0..vocab_size {
        match added.simple_id_to_token(id).or_else(|| inner.get_model().id_to_token(id)) {
            None => table.kinds.push(NOTHING),
            Some(token) => {
                let special = if added.is_special_token(&token) { SPECIAL } else { 0 };
                match &kind {
                    Kind::ByteLevel => {
                        table.kinds.push(TEXT | special);
                        let bytes: Option<Vec<u8>> = token.chars().map(|c| alphabet.get(c as usize).copied().flatten()).collect();
                        table.bytes.extend(bytes.unwrap_or_else(|| token.into_bytes()));
                    }
                    Kind::SentencePiece { maps, fallback, .. } => {
                        let text = maps.iter().try_fold(token, |text, map| map.apply(text))?;
                        let spells_byte = *fallback && text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
                        match spells_byte.then(|| text.get(3..5).and_then(|hex| u8::from_str_radix(hex, 16).ok())).flatten() {
                            Some(byte) => {
                                table.kinds.push(FALLBACK_BYTE | special);
                                table.bytes.push(byte);
                            }
                            None => {
                                table.kinds.push(TEXT | special);
                                table.bytes.extend(text.into_bytes());
                            }
                        }
                    }
                }
            }
        }
        table.ends.push(u32::try_from(table.bytes.len()).ok()?);
    }
    if let Kind::SentencePiece { strip, .. } = kind {
        table.strip = strip;
    }
    Some(table)
}
