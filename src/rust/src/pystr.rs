//! `str(x)` as Python prints it, where minijinja differs: floats with exponents, alone and inside lists and maps. Bounded like tojson.

use crate::pyjson::float_repr;
use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

const MAX_DEPTH: usize = 200;

/// None where minijinja's own text is Python's already.
pub fn python_str(state: &State, value: &Value) -> Result<Option<String>, Error> {
    let container = matches!(value.kind(), ValueKind::Map | ValueKind::Seq) && !value.is_kwargs();
    if !container {
        return Ok(float_text(value));
    }
    let mut out = String::new();
    let mut charged = 0;
    write(state, &mut out, &mut charged, value, 0)?;
    Ok(Some(out))
}

fn float_text(value: &Value) -> Option<String> {
    if value.kind() != ValueKind::Number || value.is_integer() {
        return None;
    }
    f64::try_from(value.clone()).ok().map(|number| match float_repr(number).as_str() {
        "NaN" => "nan".to_string(),
        "Infinity" => "inf".to_string(),
        "-Infinity" => "-inf".to_string(),
        text => text.to_string(),
    })
}

fn write(state: &State, out: &mut String, charged: &mut usize, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("string: nested deeper than {MAX_DEPTH}")));
    }
    state.consume_fuel(1)?;
    if out.len() - *charged >= 4096 {
        state.consume_fuel(((out.len() - *charged) / 4) as u64)?;
        *charged = out.len();
    }
    match value.kind() {
        ValueKind::Seq => {
            let (open, close) = if value.is_tuple() { ('(', ')') } else { ('[', ']') };
            out.push(open);
            let mut count = 0;
            for item in value.try_iter()?.checked() {
                if count > 0 {
                    out.push_str(", ");
                }
                count += 1;
                write(state, out, charged, &item?, depth + 1)?;
            }
            if value.is_tuple() && count == 1 {
                out.push(',');
            }
            out.push(close);
        }
        ValueKind::Map if value.as_object().is_some_and(|object| object.try_iter_pairs().is_some()) => {
            out.push('{');
            let object = value.as_object().expect("just seen");
            for (index, (key, item)) in object.try_iter_pairs().into_iter().flatten().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write(state, out, charged, &key, depth + 1)?;
                out.push_str(": ");
                write(state, out, charged, &item, depth + 1)?;
            }
            out.push('}');
        }
        _ => match float_text(value) {
            Some(text) => out.push_str(&text),
            None => out.push_str(&format!("{value:?}")),
        },
    }
    Ok(())
}
