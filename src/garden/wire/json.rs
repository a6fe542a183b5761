//! JSON as Go's decoder takes it: what Garden's clients were written against.
//!
//! Field names match in any case, the last of several wins, `null` leaves a field as it was,
//! unknown fields are ignored, bytes that are not UTF-8 become U+FFFD. Unlike Go, what follows the
//! value is refused.
//!
//! An error names the field and what was found there by its kind alone: never by its value, which
//! may be a password.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use std::cell::Cell;
use std::fmt;

/// Values in one document, at most; a bound on what a hostile body makes us hold.
const MAX_VALUES: u32 = 1_000_000;

/// Why a body was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WrongJson {
    /// There is nothing.
    #[error("the request's body is empty; this call takes {expected}")]
    Empty {
        /// What the call takes, in words.
        expected: &'static str,
    },
    /// It is no JSON.
    #[error("the request's body is not valid JSON: {0}")]
    Syntax(String),
    /// It is JSON of another shape.
    #[error("the request's field {path} is wrong: {reason}")]
    Field {
        /// Where, as in `bind_mounts[0].mode`.
        path: String,
        /// Why.
        reason: String,
    },
    /// It is JSON of another shape as a whole.
    #[error("the request's body is wrong: {0}")]
    Whole(String),
}

/// Reads one document. `expected` says in words what the call takes, for an empty body.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8], expected: &'static str) -> Result<T, WrongJson> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(WrongJson::Empty { expected });
    }
    let text = String::from_utf8_lossy(body);
    let mut source = serde_json::Deserializer::from_str(&text);
    let budget = Cell::new(MAX_VALUES);
    let tree = Budgeted(&budget).deserialize(&mut source).and_then(|tree| source.end().map(|()| tree));
    let tree = tree.map_err(|error| WrongJson::Syntax(error.to_string()))?;
    serde_path_to_error::deserialize(tree).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner().0;
        if path == "." { WrongJson::Whole(reason) } else { WrongJson::Field { path, reason } }
    })
}

/// A document, its fields in their order.
#[derive(Debug)]
enum Json {
    Null,
    Bool(bool),
    Whole(i128),
    Fraction,
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Whole(_) => "a number",
            Self::Fraction => "a number with a fraction or exponent, or beyond 64 bits",
            Self::Text(_) => "a string",
            Self::List(_) => "an array",
            Self::Object(_) => "an object",
        }
    }

    fn is_not(&self, expected: impl fmt::Display) -> Wrong {
        Wrong(format!("expected {expected}, found {}", self.kind()))
    }

    fn whole<T: TryFrom<i128>>(self, least: impl fmt::Display, most: impl fmt::Display) -> Result<T, Wrong> {
        let value = match self {
            Self::Null => 0,
            Self::Whole(value) => value,
            other => return Err(other.is_not(format_args!("a whole number from {least} to {most}"))),
        };
        T::try_from(value)
            .map_err(|_| Wrong(format!("expected a whole number from {least} to {most}, found one beyond")))
    }
}

/// Why a part of a document has the wrong shape.
#[derive(Debug)]
struct Wrong(String);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// Builds a [`Json`], counting its values.
struct Budgeted<'a>(&'a Cell<u32>);

impl<'de> DeserializeSeed<'de> for Budgeted<'_> {
    type Value = Json;

    fn deserialize<D: de::Deserializer<'de>>(self, source: D) -> Result<Json, D::Error> {
        match self.0.get().checked_sub(1) {
            Some(left) => self.0.set(left),
            None => return Err(de::Error::custom(format_args!("more than {MAX_VALUES} values"))),
        }
        source.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Budgeted<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Whole(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Whole(value.into()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Fraction)
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Json, E> {
        Ok(Json::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Budgeted(self.0))? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(name) = fields.next_key()? {
            object.push((name, fields.next_value_seed(Budgeted(self.0))?));
        }
        Ok(Json::Object(object))
    }
}

impl<'de> IntoDeserializer<'de, Wrong> for Json {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// Which of a struct's fields Go would take a name for: the same, else the same in another case.
fn field_for(fields: &[&'static str], name: &str) -> Option<usize> {
    let exact = fields.iter().position(|field| *field == name);
    exact.or_else(|| fields.iter().position(|field| field.eq_ignore_ascii_case(name)))
}

macro_rules! whole_numbers {
    ($($method:ident => $visit:ident: $type:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
            visitor.$visit(self.whole(<$type>::MIN, <$type>::MAX)?)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Json {
    type Error = Wrong;

    whole_numbers! {
        deserialize_u8 => visit_u8: u8, deserialize_u16 => visit_u16: u16, deserialize_u32 => visit_u32: u32,
        deserialize_u64 => visit_u64: u64, deserialize_i64 => visit_i64: i64
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self {
            Self::Null => visitor.visit_unit(),
            Self::Bool(value) => visitor.visit_bool(value),
            Self::Whole(value) => visitor.visit_i128(value),
            Self::Fraction => Err(self.is_not("a whole number")),
            Self::Text(value) => visitor.visit_string(value),
            Self::List(items) => visitor.visit_seq(SeqDeserializer::new(items.into_iter())),
            Self::Object(fields) => visitor.visit_map(MapDeserializer::new(fields.into_iter())),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self {
            Self::Null => visitor.visit_bool(false),
            Self::Bool(value) => visitor.visit_bool(value),
            other => Err(other.is_not("true or false")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self {
            Self::Null => visitor.visit_str(""),
            Self::Text(value) => visitor.visit_string(value),
            other => Err(other.is_not("a string")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.deserialize_string(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self {
            Self::Null => visitor.visit_none(),
            value => visitor.visit_some(value),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let items = match self {
            Self::Null => Vec::new(),
            Self::List(items) => items,
            other => return Err(other.is_not("an array")),
        };
        visitor.visit_seq(SeqDeserializer::new(items.into_iter()))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let fields = match self {
            Self::Null => Vec::new(),
            Self::Object(fields) => fields,
            other => return Err(other.is_not("an object")),
        };
        visitor.visit_map(MapDeserializer::new(fields.into_iter()))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        let given = match self {
            Self::Null => Vec::new(),
            Self::Object(given) => given,
            other => return Err(other.is_not("an object")),
        };
        let mut taken: Vec<Option<Json>> = fields.iter().map(|_| None).collect();
        for (name, value) in given {
            match (field_for(fields, &name), value) {
                (None, _) | (_, Json::Null) => {}
                (Some(place), value) => taken[place] = Some(value),
            }
        }
        let known = fields.iter().zip(taken).filter_map(|(name, value)| Some((*name, value?)));
        visitor.visit_map(MapDeserializer::new(known))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Inner {
        value: u8,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Outer {
        name: String,
        big: u64,
        signed: i64,
        on: bool,
        list: Vec<String>,
        map: BTreeMap<String, String>,
        inners: Vec<Inner>,
        maybe: Option<Inner>,
    }

    fn read(text: &str) -> Result<Outer, String> {
        parse(text.as_bytes(), "an object").map_err(|error| error.to_string())
    }

    #[test]
    fn names_match_in_any_case_and_the_last_of_several_wins() {
        assert_eq!(read(r#"{"NAME":"a","Name":"b"}"#).unwrap().name, "b");
        assert_eq!(read(r#"{"name":"a","name":null}"#).unwrap().name, "a");
        assert_eq!(read(r#"{"map":{"K":"1","k":"2","k":"3"}}"#).unwrap().map.len(), 2);
    }

    #[test]
    fn null_and_unknown_fields_leave_zero_values() {
        let nulls = r#"{"name":null,"big":null,"signed":null,"on":null,"list":null,"map":null,"inners":null,
            "maybe":null,"other":[{"deep":1.5}]}"#;
        assert_eq!(read(nulls).unwrap(), Outer::default());
        assert_eq!(read("null").unwrap(), Outer::default());
        let within = read(r#"{"list":["a",null],"map":{"k":null},"inners":[null]}"#).unwrap();
        assert_eq!(within.list, ["a", ""]);
        assert_eq!(within.map["k"], "");
        assert_eq!(within.inners, [Inner::default()]);
    }

    #[test]
    fn a_wrong_type_names_the_field_and_never_the_value() {
        let cases = [
            (r#"{"inners":[{},{"value":"hunter2"}]}"#, "inners[1].value", "0 to 255, found a string"),
            (r#"{"inners":[{"value":256}]}"#, "inners[0].value", "0 to 255, found one beyond"),
            (r#"{"maybe":{"value":-1}}"#, "maybe.value", "0 to 255, found one beyond"),
            (r#"{"big":1.0}"#, "big", "fraction"),
            (r#"{"big":18446744073709551616}"#, "big", "beyond 64 bits"),
            (r#"{"name":["hunter2"]}"#, "name", "expected a string, found an array"),
            (r#"{"map":{"k":5}}"#, "map.k", "expected a string, found a number"),
            (r#"{"list":"hunter2"}"#, "list", "expected an array, found a string"),
            (r#"{"on":"hunter2"}"#, "on", "expected true or false, found a string"),
            (r#"{"maybe":"hunter2"}"#, "maybe", "expected an object, found a string"),
        ];
        for (text, path, reason) in cases {
            let error = read(text).unwrap_err();
            assert!(error.contains(&format!("field {path} is wrong")) && error.contains(reason), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert_eq!(read("[]").unwrap_err(), "the request's body is wrong: expected an object, found an array");
    }

    #[test]
    fn what_is_no_json_says_where() {
        for text in ["{", "{]", "nul", r#"{"a":1} x"#, r#"{"a":1}{"#, "\u{0}"] {
            assert!(read(text).unwrap_err().starts_with("the request's body is not valid JSON"), "{text}");
        }
        assert_eq!(read(" \n").unwrap_err(), "the request's body is empty; this call takes an object");
    }

    #[test]
    fn depth_and_number_of_values_are_bounded() {
        assert!(read(&"[".repeat(100_000)).unwrap_err().contains("recursion limit"));
        let many = format!("[{}0]", "0,".repeat(MAX_VALUES as usize));
        assert!(read(&many).unwrap_err().contains("more than 1000000 values"));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_replaced() {
        let outer: Outer = parse(b"{\"name\":\"a\xffb\"}", "an object").unwrap();
        assert_eq!(outer.name, "a\u{fffd}b");
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..256)) {
            let _ = parse::<Outer>(&bytes, "an object");
        }

        #[test]
        fn nothing_that_looks_like_json_panics(text in r#"[\[\]{}:,"\\a-c0-9.eE+\- nulltrefs]{0,80}"#) {
            let _ = parse::<Outer>(text.as_bytes(), "an object");
        }
    }
}
