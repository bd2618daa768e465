//! The operators and constructors of templates, paid for. The engine charges for what it makes but not for what it walks: a list that
//! holds the same list twice, sixty times over, is small in memory and endless to compare, hash or print. So every operation that can
//! make a value larger than its parts weighs the result as if it were written out, and refuses what is out of proportion to the input.
//! `~` joins what Python's str() prints, and `+` on lists gives a list.

use crate::pystr::python_str;
use minijinja::machinery::{CompiledTemplate, Instruction};
use minijinja::value::{Kwargs, Rest, Tuple, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use std::cell::Cell;

const ADD: &str = "__add";
const MUL: &str = "__mul";
const CONCAT: &str = "__concat";
const LIST: &str = "__list";
const TUPLE: &str = "__tuple";
const MAP: &str = "__map";
const IN: &str = "__in";
/// Where the function hides, so that it cannot be passed around: templates may use its name for something of their own.
const NAMESPACE: &str = "__namespace";

thread_local! {
    /// How heavy a value may be in this rendering.
    static WEIGHT_LIMIT: Cell<u64> = const { Cell::new(0) };
}

/// What is in proportion to `input_bytes` of messages, tools and arguments.
pub fn set_weight_limit(input_bytes: u64) {
    WEIGHT_LIMIT.with(|limit| limit.set(16_384 + 2 * input_bytes));
}

/// Registers the operations and takes away what would go around them.
pub fn install(env: &mut Environment) {
    env.add_filter(ADD, |state: &mut State, a: Value, b: Value| weighed(state, add(state, &a, &b)?));
    env.add_filter(MUL, |state: &mut State, a: Value, b: Value| weighed(state, mul(state, &a, &b)?));
    env.add_filter(CONCAT, |state: &mut State, a: Value, b: Value| concat(state, &a, &b));
    env.add_filter(LIST, |state: &mut State, items: Rest<Value>| weighed(state, Value::from(items.0)));
    env.add_filter(TUPLE, |state: &mut State, items: Rest<Value>| weighed(state, Value::from(Tuple::from(items.0))));
    env.add_filter(MAP, |state: &mut State, items: Rest<Value>| {
        let pairs: Vec<(Value, Value)> = items.0.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
        for (key, _) in &pairs {
            weigh(state, key)?; // before it is hashed
        }
        weighed(state, Value::from_pairs(pairs))
    });
    env.add_filter("__eq", |state: &mut State, a: Value, b: Value| compared(state, &a, &b, |a, b| a == b));
    env.add_filter("__ne", |state: &mut State, a: Value, b: Value| compared(state, &a, &b, |a, b| a != b));
    env.add_filter("__lt", |state: &mut State, a: Value, b: Value| compared(state, &a, &b, |a, b| a < b));
    env.add_filter("__le", |state: &mut State, a: Value, b: Value| compared(state, &a, &b, |a, b| a <= b));
    env.add_filter("__gt", |state: &mut State, a: Value, b: Value| compared(state, &a, &b, |a, b| a > b));
    env.add_filter("__ge", |state: &mut State, a: Value, b: Value| compared(state, &a, &b, |a, b| a >= b));
    // The test is the operator with its sides the other way round, and is not compiled to the instruction.
    env.add_filter(IN, |state: &mut State, a: Value, b: Value| {
        weigh(state, &a)?;
        weigh(state, &b)?;
        state.perform_test("in", &[a, b]).map(Value::from)
    });
    env.add_filter("sum", sum);
    env.add_filter("__engine_map", minijinja::filters::map);
    env.add_filter("map", |state: &mut State, args: Rest<Value>| {
        let mapped = state.apply_filter("__engine_map", &args)?;
        weighed(state, mapped)
    });
    env.add_filter("list", |state: &mut State, value: Value| {
        let listed = minijinja::filters::list(state, value)?;
        weighed(state, listed)
    });
    env.add_filter("batch", |state: &mut State, value: Value, count: usize, fill: Option<Value>| {
        state.consume_fuel(count as u64)?;
        let batched = minijinja::filters::batch(state, value, count, fill)?;
        weighed(state, batched)
    });
    env.add_filter("slice", |state: &mut State, value: Value, count: usize, fill: Option<Value>| {
        state.consume_fuel(count as u64)?;
        let sliced = minijinja::filters::slice(state, value, count, fill)?;
        weighed(state, sliced)
    });
    env.add_function("dict", |state: &mut State, value: Option<Value>, more: Kwargs| {
        let made = minijinja::functions::dict(value, more)?;
        weighed(state, made)
    });
    env.remove_global("namespace");
    env.add_function(NAMESPACE, minijinja::functions::namespace);
    for name in ["chain", "zip", "groupby", "pprint"] {
        env.remove_filter(name);
    }
    env.remove_global("debug");
}

/// Points the compiled instructions at the operations above. Each takes as many values and leaves one, as a filter does, so that no
/// jump changes.
pub fn redirect(template: &mut CompiledTemplate) {
    let blocks = template.blocks.values_mut();
    for instructions in std::iter::once(&mut template.instructions).chain(blocks) {
        let mut at = 0;
        while let Some(instruction) = instructions.get_mut(at) {
            let target = match instruction {
                Instruction::Add => Some((ADD, Some(2))),
                Instruction::Mul => Some((MUL, Some(2))),
                Instruction::StringConcat => Some((CONCAT, Some(2))),
                Instruction::Eq => Some(("__eq", Some(2))),
                Instruction::Ne => Some(("__ne", Some(2))),
                Instruction::Lt => Some(("__lt", Some(2))),
                Instruction::Lte => Some(("__le", Some(2))),
                Instruction::Gt => Some(("__gt", Some(2))),
                Instruction::Gte => Some(("__ge", Some(2))),
                Instruction::In => Some((IN, Some(2))),
                Instruction::CallFunction(name, _) if *name == "namespace" => {
                    *name = NAMESPACE;
                    None
                }
                Instruction::BuildList(count) => Some((LIST, count.map(|n| n as u16))),
                Instruction::BuildTuple(count) => Some((TUPLE, count.map(|n| n as u16))),
                Instruction::BuildMap(pairs) => Some((MAP, Some(2 * *pairs as u16))),
                _ => None,
            };
            if let Some((name, count)) = target {
                *instruction = Instruction::ApplyFilter(name, count, !0);
            }
            at += 1;
        }
    }
}

/// A namespace is the one value that can come to hold itself, and what prints or compares it would never end. It may therefore only be
/// bound to a name, and the name only be used for its attributes, which is all that templates do with one.
pub fn check_namespaces(template: &CompiledTemplate) -> Result<(), Error> {
    let all = || std::iter::once(&template.instructions).chain(template.blocks.values());
    let refused = |what: &str| Error::new(ErrorKind::InvalidOperation, format!("namespace: {what}"));
    let mut names = Vec::new();
    for instructions in all() {
        let mut at = 0;
        while let Some(instruction) = instructions.get(at) {
            at += 1;
            match (instruction, instructions.get(at)) {
                (Instruction::CallFunction("namespace", _), Some(Instruction::StoreLocal(name))) => names.push(*name),
                (Instruction::CallFunction("namespace", _), _) => {
                    return Err(refused("expected {% set name = namespace(...) %}"))
                }
                (Instruction::Lookup(NAMESPACE) | Instruction::CallFunction(NAMESPACE, _), _) => {
                    return Err(refused("expected namespace(...)"))
                }
                _ => {}
            }
        }
    }
    for instructions in all() {
        let mut at = 0;
        while let Some(instruction) = instructions.get(at) {
            at += 1;
            let Instruction::Lookup(name) = instruction else { continue };
            let attribute = matches!(
                instructions.get(at),
                Some(Instruction::GetAttr(_) | Instruction::SetAttr(_) | Instruction::PerformTest(..))
            );
            if names.contains(name) && !attribute {
                return Err(refused(&format!("expected an attribute of {name}, got the namespace itself")));
            }
        }
    }
    Ok(())
}

fn is_container(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
}

/// Counts what printing the value would visit, and charges for the count.
fn weigh(state: &State, value: &Value) -> Result<(), Error> {
    if !is_container(value) {
        return Ok(());
    }
    let limit = WEIGHT_LIMIT.with(Cell::get);
    let too_heavy = || Error::new(ErrorKind::InvalidOperation, format!("value budget: expected at most {limit} nested items"));
    let mut weight = 0;
    let mut todo = vec![value.clone()];
    while let Some(next) = todo.pop() {
        weight += 1 + next.as_str().map_or(0, |text| text.len() as u64 / 64);
        if is_container(&next) {
            let pairs = next.as_object().filter(|_| next.kind() == ValueKind::Map).and_then(|object| object.try_iter_pairs());
            match pairs {
                Some(pairs) => {
                    for (key, item) in pairs {
                        todo.extend([key, item]);
                        if weight + todo.len() as u64 > limit {
                            return Err(too_heavy());
                        }
                    }
                }
                None => {
                    for item in next.try_iter()?.checked() {
                        todo.push(item?);
                        if weight + todo.len() as u64 > limit {
                            return Err(too_heavy());
                        }
                    }
                }
            }
        }
        if weight > limit {
            return Err(too_heavy());
        }
    }
    state.consume_fuel(weight / 8)
}

fn weighed(state: &State, value: Value) -> Result<Value, Error> {
    weigh(state, &value)?;
    Ok(value)
}

fn compared(state: &State, a: &Value, b: &Value, compare: fn(&Value, &Value) -> bool) -> Result<Value, Error> {
    if is_container(a) && is_container(b) {
        weigh(state, a)?;
        weigh(state, b)?;
    }
    state.consume_fuel((a.as_str().map_or(0, str::len).min(b.as_str().map_or(0, str::len)) / 64) as u64)?;
    Ok(Value::from(compare(a, b)))
}

/// Numbers, and strings or lists times a number.
fn mul(state: &State, a: &Value, b: &Value) -> Result<Value, Error> {
    let number = |v: &Value| matches!(v.kind(), ValueKind::Number | ValueKind::Bool);
    let (repeated, count) = if number(a) { (b, a) } else { (a, b) };
    if number(repeated) {
        if is_whole(a) && is_whole(b) {
            let product = i128::try_from(a.clone())?.checked_mul(i128::try_from(b.clone())?);
            return product
                .map(whole)
                .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "*: the product does not fit 128 bits"));
        }
        return Ok(Value::from(f64::try_from(a.clone())? * f64::try_from(b.clone())?));
    }
    if !is_whole(count) {
        return Err(impossible("*", a, b));
    }
    let count = usize::try_from(i128::try_from(count.clone())?.max(0)).unwrap_or(usize::MAX);
    if let Some(text) = repeated.as_str() {
        // One step for each 64 bytes.
        state.consume_fuel((text.len() as u64).saturating_mul(count as u64) / 64)?;
        return Ok(Value::from(text.repeat(count)));
    }
    if !is_list(repeated) {
        return Err(impossible("*", a, b));
    }
    let items: Result<Vec<Value>, Error> = repeated.try_iter()?.checked().collect();
    let items = items?;
    state.consume_fuel((items.len() as u64).saturating_mul(count as u64))?;
    let all: Vec<Value> = std::iter::repeat_n(&items, count).flatten().cloned().collect();
    Ok(if repeated.is_tuple() { Value::from(Tuple::from(all)) } else { Value::from(all) })
}

fn whole(number: i128) -> Value {
    i64::try_from(number).map_or_else(|_| Value::from(number), Value::from)
}

fn impossible(operator: &str, a: &Value, b: &Value) -> Error {
    let message = format!("tried to use {operator} operator on unsupported types {} and {}", a.kind(), b.kind());
    Error::new(ErrorKind::InvalidOperation, message)
}

fn add(state: &State, a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Some(left), Some(right)) = (a.as_str(), b.as_str()) {
        return join(state, left, right);
    }
    if is_list(a) && is_list(b) {
        if a.is_tuple() != b.is_tuple() {
            return Err(impossible("+", a, b));
        }
        let mut items = Vec::new();
        for item in a.try_iter()?.checked().chain(b.try_iter()?.checked()) {
            if items.len() % 64 == 0 {
                state.consume_fuel(64)?;
            }
            items.push(item?);
        }
        return Ok(if a.is_tuple() { Value::from(Tuple::from(items)) } else { Value::from(items) });
    }
    let number = |v: &Value| matches!(v.kind(), ValueKind::Number | ValueKind::Bool);
    if !number(a) || !number(b) {
        return Err(impossible("+", a, b));
    }
    if let (Ok(left), Ok(right)) = (i128::try_from(a.clone()), i128::try_from(b.clone())) {
        if is_whole(a) && is_whole(b) {
            let sum = left.checked_add(right);
            let sum = sum.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "+: the sum does not fit 128 bits"))?;
            return Ok(whole(sum));
        }
    }
    Ok(Value::from(f64::try_from(a.clone())? + f64::try_from(b.clone())?))
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

fn is_whole(value: &Value) -> bool {
    value.kind() == ValueKind::Bool || value.is_integer()
}

fn join(state: &State, left: &str, right: &str) -> Result<Value, Error> {
    state.consume_fuel(((left.len() + right.len()) / 64) as u64)?;
    let mut text = String::with_capacity(left.len() + right.len());
    text.push_str(left);
    text.push_str(right);
    Ok(Value::from(text))
}

fn concat(state: &State, a: &Value, b: &Value) -> Result<Value, Error> {
    let text = |v: &Value| -> Result<Value, Error> {
        if v.as_str().is_some() {
            return Ok(v.clone());
        }
        Ok(Value::from(python_str(state, v)?.unwrap_or_else(|| v.to_string())))
    };
    let (a, b) = (text(a)?, text(b)?);
    join(state, a.as_str().unwrap_or_default(), b.as_str().unwrap_or_default())
}

/// sum(iterable, attribute=None, start=0)
fn sum(state: &mut State, items: Value, attribute: Option<Value>, start: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let named_attribute: Option<Value> = kwargs.get("attribute")?;
    let named_start: Option<Value> = kwargs.get("start")?;
    kwargs.assert_all_used()?;
    let attribute = named_attribute.or(attribute).filter(|v| !v.is_none());
    let mut total = named_start.or(start).unwrap_or_else(|| Value::from(0));
    for item in items.try_iter()?.checked() {
        let item = item?;
        state.consume_fuel(1)?;
        let term = match &attribute {
            Some(path) => path.as_str().unwrap_or_default().split('.').try_fold(item, |value, name| value.get_attr(name))?,
            None => item,
        };
        total = add(state, &total, &term)?;
    }
    Ok(total)
}
