//! Fields of an object that its type doesn't know: misspelt ones look as if they had an effect.
//!
//! serde skips what it doesn't know. Here a value that was parsed already is read into its type once more, and every struct
//! on the way is asked which fields it has. Only kinds of the project's own are looked at: other APIs have fields that the
//! agent has no use for.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_yaml_ng::{Error, Mapping, Value};

/// What a look at a value found.
#[derive(Debug, Default)]
pub struct Fields {
    /// Paths of fields that the type doesn't have.
    pub unknown: Vec<String>,
    /// Paths of all fields that the type has where the value went; places in a list are `[]`.
    pub known: BTreeSet<String>,
}

/// Reads `value`, which stands at `path`, as a `T`.
pub fn fields<T: DeserializeOwned>(value: &Value, path: &str) -> Fields {
    let found = RefCell::new(Fields::default());
    let walk = Walk { value, path: path.to_owned(), general: path.to_owned(), found: &found };
    // What can't be read was refused before; what was seen until then is true all the same.
    let _ = T::deserialize(walk);
    found.into_inner()
}

struct Walk<'a> {
    value: &'a Value,
    path: String,
    /// The path with `[]` for every place in a list.
    general: String,
    found: &'a RefCell<Fields>,
}

impl<'a> Walk<'a> {
    fn item(&self, place: usize, value: &'a Value) -> Self {
        let (path, general) = (format!("{}[{place}]", self.path), format!("{}[]", self.general));
        Walk { value, path, general, found: self.found }
    }

    fn field(&self, name: &str, value: &'a Value) -> Self {
        let (path, general) = (format!("{}.{name}", self.path), format!("{}.{name}", self.general));
        Walk { value, path, general, found: self.found }
    }
}

impl<'de> Deserializer<'de> for Walk<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Sequence(items) => visitor.visit_seq(Items { next: 0, items, walk: self }),
            Value::Mapping(mapping) => {
                visitor.visit_map(Entries { entries: mapping.iter(), value: None, walk: self })
            }
            Value::Tagged(tagged) => Walk { value: &tagged.value, ..self }.deserialize_any(visitor),
            // The rest has no fields: serde_yaml_ng reads it.
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                self.value.clone().deserialize_any(visitor)
            }
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        {
            let mut found = self.found.borrow_mut();
            found.known.extend(fields.iter().map(|field| format!("{}.{field}", self.general)));
            let names = self.value.as_mapping().into_iter().flat_map(Mapping::keys).filter_map(Value::as_str);
            let unknown =
                names.filter(|name| !fields.contains(name)).map(|name| format!("{}.{name}", self.path));
            found.unknown.extend(unknown);
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let name: StrDeserializer<'_, Error> = self.value.as_str().unwrap_or_default().into_deserializer();
        visitor.visit_enum(name)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

struct Items<'a> {
    next: usize,
    items: &'a [Value],
    walk: Walk<'a>,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(value) = self.items.get(self.next) else { return Ok(None) };
        let item = self.walk.item(self.next, value);
        self.next += 1;
        seed.deserialize(item).map(Some)
    }
}

struct Entries<'a> {
    entries: serde_yaml_ng::mapping::Iter<'a>,
    value: Option<(&'a str, &'a Value)>,
    walk: Walk<'a>,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        let name = key.as_str().unwrap_or_default();
        self.value = Some((name, value));
        let name: StrDeserializer<'_, Error> = name.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        match self.value.take() {
            Some((name, value)) => seed.deserialize(self.walk.field(name, value)),
            None => Err(de::Error::custom("a value without its key")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    #[allow(dead_code)]
    struct Outer {
        one: Option<u32>,
        two_words: Option<Inner>,
        #[serde(default)]
        list: Vec<Inner>,
    }

    #[derive(serde::Deserialize)]
    #[allow(dead_code)]
    struct Inner {
        name: Option<String>,
    }

    #[test]
    fn unknown_fields_are_named_with_their_path() {
        fn check(text: &str, want: &[&str]) {
            let value: Value = serde_yaml_ng::from_str(text).unwrap();
            assert_eq!(fields::<Outer>(&value, "spec").unknown, want, "{text}");
        }
        check("{}", &[]);
        check("{one: 1, twoWords: {name: a}, list: [{name: b}, {}]}", &[]);
        check("{won: 1}", &["spec.won"]);
        check(
            "{twoWords: {nmae: a}, list: [{}, {name: b, id: {name: c}}]}",
            &["spec.twoWords.nmae", "spec.list[1].id"],
        );
        check("{twoWords: null, more: null}", &["spec.more"]);
    }
}
