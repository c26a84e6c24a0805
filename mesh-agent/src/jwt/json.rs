//! JSON as tokens and key sets must be written: every name once, not too deep, not too much.
//!
//! Two parsers that disagree about which of two `sub` counts would let a token be two principals (RFC 7519, 4; RFC 7515,
//! 5.2), so what says a name twice is refused. Used by `token` and `keys`.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Arrays and objects within each other.
const DEEPEST: usize = 16;

/// Reads one object, of at most `most` values, however they are nested.
///
/// # Errors
/// serde_json's, for a name that is said twice and what is too much as well.
pub(super) fn object(text: &[u8], most: usize) -> Result<Map<String, Value>, serde_json::Error> {
    let left = Cell::new(most);
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Strict { left: &left, depth: DEEPEST }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(serde_json::Error::custom("not an object")),
    }
}

#[derive(Clone, Copy)]
struct Strict<'c> {
    left: &'c Cell<usize>,
    depth: usize,
}

impl<'c> Strict<'c> {
    fn inner<E: Error>(self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1).ok_or_else(|| E::custom("nested too deep"))?;
        Ok(Strict { left: self.left, depth })
    }

    fn count<E: Error>(self) -> Result<(), E> {
        let left = self.left.get().checked_sub(1).ok_or_else(|| E::custom("too many values"))?;
        self.left.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.count()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a number"))
    }
    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }
    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut map = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(inner)?;
            if map.insert(name, value).is_some() {
                return Err(A::Error::custom("a name is said twice"));
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_is_said_once_at_every_depth() {
        fn check(text: &str, ok: bool) {
            assert_eq!(object(text.as_bytes(), 16).is_ok(), ok, "{text}");
        }
        check("{}", true);
        check(r#"{"a":1,"b":[{"a":1},{"a":-2.5}]}"#, true);
        check(r#"{"a":1,"a":1}"#, false);
        check(r#"{"a":1,"\u0061":1}"#, false);
        check(r#"{"x":{"a":1,"a":null}}"#, false);
        check(r#"{"x":[{"a":1,"a":2}]}"#, false);
        for bad in
            ["", "[]", "1", "null", "{", "{} x", "{}{}", r#"{"a":1,}"#, r#"{"a":NaN}"#, "{\"a\":\"\u{1}\"}"]
        {
            check(bad, false);
        }
    }

    #[test]
    fn depth_and_number_of_values_are_bounded() {
        let deep = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(object(deep(DEEPEST - 1).as_bytes(), 100).is_ok());
        assert!(object(deep(DEEPEST).as_bytes(), 100).is_err());
        assert!(object(deep(100_000).as_bytes(), usize::MAX).is_err());
        assert!(object(br#"{"a":1,"b":2}"#, 3).is_ok());
        assert!(object(br#"{"a":1,"b":2}"#, 2).is_err());
    }

    #[test]
    fn values_are_what_they_are() {
        let text = br#"{"t":true,"n":null,"i":-7,"u":18446744073709551615,"f":1.5,"s":"x","l":[1,{}]}"#;
        let want = json!({"t": true, "n": null, "i": -7, "u": u64::MAX, "f": 1.5, "s": "x", "l": [1, {}]});
        assert_eq!(Value::Object(object(text, 100).unwrap()), want);
    }
}
