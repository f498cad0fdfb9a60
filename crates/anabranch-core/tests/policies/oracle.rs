//! What the policies mean, in plain words and numbers: no code of the library is used to decide.

use std::cmp::{Ordering, Reverse};

use serde_json::Value;

/// One of the concurrent writes.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) value: Value,
    pub(crate) stamp: i64,
    /// How many ops the writer had seen and made before; together with the writer it names the op.
    pub(crate) lead: i64,
    pub(crate) writer: u8,
}

/// The writes in the policy's order, the winner first.
pub(crate) fn settle(policy: &str, mut writes: Vec<Write>) -> Vec<Write> {
    let op = |write: &Write| (write.lead, write.writer);
    match policy {
        "first_writer" => writes.sort_by_key(|write| (write.stamp, op(write))),
        "causal" => writes.sort_by_key(|write| Reverse(op(write))),
        "max" => writes.sort_by(|a, b| order(&b.value, &a.value).then(op(b).cmp(&op(a)))),
        "min" => writes.sort_by(|a, b| order(&a.value, &b.value).then(op(b).cmp(&op(a)))),
        _ => writes.sort_by_key(|write| Reverse((write.stamp, op(write)))),
    }
    writes
}

/// Null, booleans, numbers, strings, arrays, objects; enough for the values that the tests use.
fn order(a: &Value, b: &Value) -> Ordering {
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    class(a).cmp(&class(b)).then(number(a).total_cmp(&number(b))).then(a.to_string().cmp(&b.to_string()))
}

fn class(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    }
}
