//! What messages get before a template sees them: names of reasoning, and arguments of calls as the template wants them.

use serde_json::{Map, Value as Json};

/// Reasoning goes by three names; transformers shows each template the ones it knows.
pub fn alias_reasoning(messages: &mut Json) {
    for message in messages.as_array_mut().into_iter().flatten() {
        let Some(map) = message.as_object_mut() else { continue };
        let names = ["reasoning_content", "thinking", "reasoning"];
        let reasoning = names.iter().find_map(|name| map.get(*name).filter(|v| !v.is_null()).cloned());
        if let Some(reasoning) = reasoning {
            if !map.contains_key("thinking") {
                map.insert("thinking".into(), reasoning.clone());
            }
            map.insert("reasoning_content".into(), reasoning);
        }
    }
}

/// Whether a template writes the arguments of a call as the text that they come as: it asks what they are (`arguments is
/// string`), or it prints them or joins them with text (`function['arguments'] + '\n'`, DeepSeek's) and nowhere encodes or walks them.
pub fn takes_text_arguments(source: &str) -> bool {
    let (mut writes, mut reads, mut condition, mut end) = (false, false, false, 0);
    for (at, word) in source.match_indices("arguments") {
        let rest = &source[at + word.len()..];
        let subscript = rest.strip_prefix("']").or_else(|| rest.strip_prefix("\"]"));
        let rest = subscript.unwrap_or(rest).trim_start_matches(|c: char| c.is_whitespace() || c == ')');
        if let Some(test) = rest.strip_prefix("is").filter(|t| t.starts_with(char::is_whitespace)) {
            let kind = test.split_whitespace().find(|w| *w != "not").unwrap_or_default();
            if kind.starts_with("string") || kind.starts_with("mapping") {
                return true;
            }
        }
        let starts = |with: &[&str]| with.iter().any(|w| rest.starts_with(w));
        if let Some(open) = source[end..at].rfind("{%") {
            let tag = source[end + open + 2..at].trim_start_matches(['-', '+']).trim_start();
            condition = tag.starts_with("if") || tag.starts_with("elif");
        }
        end = at + word.len();
        let member = rest.strip_prefix('.').is_some_and(|name| name.starts_with(char::is_alphabetic));
        writes |= starts(&["+", "~", "}}", "-}}"]);
        // `{% if call.arguments %}` reads nothing; `set` and `for` do.
        reads |= starts(&["|", "["]) || member || (starts(&["%}", "-%}"]) && !condition);
    }
    writes && !reads
}

/// OpenAI's format has the arguments of a call as text that holds JSON. Templates are written for the object, and would encode the text
/// once more, quotes and all.
pub fn read_arguments(messages: &mut Json) {
    let read = |call: &mut Json| {
        let Some(arguments) = call.get_mut("arguments") else { return };
        let Some(text) = arguments.as_str() else { return };
        let parsed = if text.trim().is_empty() { Ok(Json::Object(Map::new())) } else { serde_json::from_str(text) };
        if let Ok(object @ Json::Object(_)) = parsed {
            *arguments = object;
        }
    };
    for message in messages.as_array_mut().into_iter().flatten() {
        if let Some(call) = message.get_mut("function_call") {
            read(call);
        }
        for call in message.get_mut("tool_calls").and_then(Json::as_array_mut).into_iter().flatten() {
            read(call);
            if let Some(function) = call.get_mut("function") {
                read(function);
            }
        }
    }
}
