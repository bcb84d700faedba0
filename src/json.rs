//! JSON from strangers: an object, read strictly.
//!
//! A member that stands twice, at any depth, is an error, as two readers could take
//! different ones (RFC 8725 §2.4, RFC 7519 §4). So is what is nested deeper than 32, or
//! has more than 256 members or elements in one place.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use foldhash::fast::RandomState;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// What is read of an object.
pub(crate) trait Members<'de> {
    /// Reads the value of a member that is of interest, and says which one it is, by a
    /// number below 32. Of another it reads nothing: it is read over.
    fn member<A: MapAccess<'de>>(
        &mut self,
        name: &str,
        map: &mut A,
    ) -> Result<Option<u32>, A::Error>;
}

/// Reads an object and nothing else.
pub(crate) fn read_object<'de>(
    text: &'de str,
    members: &mut impl Members<'de>,
) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Object(members).deserialize(&mut deserializer)?;
    deserializer.end()
}

/// Reads an object that is the value of a member.
pub(crate) struct Object<'m, M>(pub(crate) &'m mut M);

impl<'de, M: Members<'de>> DeserializeSeed<'de> for Object<'_, M> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, M: Members<'de>> Visitor<'de> for Object<'_, M> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut known, mut others) = (0_u32, None::<Seen<'de>>);
        while let Some(Text(name)) = map.next_key()? {
            let Some(number) = self.0.member(&name, &mut map)? else {
                map.next_value_seed(SKIP)?;
                others.get_or_insert_default().insert(name)?;
                continue;
            };
            let bit = 1_u32.wrapping_shl(number);
            if known & bit != 0 {
                return Err(A::Error::custom(TWICE));
            }
            known |= bit;
        }
        Ok(())
    }
}

/// A string, borrowed where it has no escapes.
pub(crate) struct Text<'de>(pub(crate) Cow<'de, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// A value, as far as it is of interest.
pub(crate) enum Value<'de> {
    Text(Cow<'de, str>),
    /// The strings of an array, and whether it has nothing else in it.
    List {
        strings: Vec<Cow<'de, str>>,
        only_strings: bool,
    },
    Null,
    Other,
}

/// Reads a value of a member of the outermost object, and finds in it what is an error at
/// any depth.
#[derive(Clone, Copy)]
pub(crate) struct Read {
    depth: usize,
    keep: bool,
}

/// Reads a value over.
pub(crate) const SKIP: Read = Read {
    depth: MOST_DEPTH - 1,
    keep: false,
};

/// Reads a value, and keeps it.
pub(crate) const KEEP: Read = Read {
    depth: MOST_DEPTH - 1,
    keep: true,
};

impl Read {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1);
        let depth = depth.ok_or_else(|| E::custom("nested too deep"))?;
        Ok(Self { depth, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Read {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Read {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value<'de>, E> {
        Ok(Value::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value<'de>, E> {
        Ok(Value::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value<'de>, E> {
        Ok(Value::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value<'de>, E> {
        Ok(Value::Other)
    }

    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(if self.keep {
            Value::Text(Cow::Owned(text.to_owned()))
        } else {
            Value::Other
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value<'de>, A::Error> {
        let inner = self.deeper()?;
        let (mut strings, mut only_strings, mut elements) = (Vec::new(), true, 0);
        while let Some(element) = seq.next_element_seed(inner)? {
            count(&mut elements)?;
            match element {
                Value::Text(text) if self.keep => strings.push(text),
                Value::Text(_) => {}
                _ => only_strings = false,
            }
        }
        Ok(Value::List {
            strings,
            only_strings,
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'de>, A::Error> {
        let inner = self.deeper()?;
        let mut seen = Seen::default();
        while let Some(Text(name)) = map.next_key()? {
            map.next_value_seed(inner)?;
            seen.insert(name)?;
        }
        Ok(Value::Other)
    }
}

fn count<E: Error>(elements: &mut usize) -> Result<(), E> {
    *elements += 1;
    if *elements > MOST_MEMBERS {
        return Err(E::custom("too many members or elements"));
    }
    Ok(())
}

/// The names of the members of one object. A few are compared one by one.
#[derive(Default)]
struct Seen<'de> {
    few: [Cow<'de, str>; FEW],
    len: usize,
    more: Option<HashSet<Cow<'de, str>, RandomState>>,
}

impl<'de> Seen<'de> {
    fn insert<E: Error>(&mut self, name: Cow<'de, str>) -> Result<(), E> {
        let held = &self.few[..self.len.min(FEW)];
        let more = self.more.as_ref();
        if held.contains(&name) || more.is_some_and(|more| more.contains(&name)) {
            return Err(E::custom(TWICE));
        }
        match self.few.get_mut(self.len) {
            Some(place) => *place = name,
            None => {
                self.more.get_or_insert_default().insert(name);
            }
        }
        count(&mut self.len)
    }
}

const TWICE: &str = "a member stands twice";
const FEW: usize = 16;
const MOST_DEPTH: usize = 32;
/// The members of one object, or the elements of one array.
const MOST_MEMBERS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl<'de> Members<'de> for Nothing {
        fn member<A: MapAccess<'de>>(
            &mut self,
            name: &str,
            map: &mut A,
        ) -> Result<Option<u32>, A::Error> {
            if name != "known" {
                return Ok(None);
            }
            map.next_value_seed(SKIP)?;
            Ok(Some(31))
        }
    }

    fn is_read(text: &str) -> bool {
        read_object(text, &mut Nothing).is_ok()
    }

    #[test]
    fn a_member_that_stands_twice_is_an_error_at_any_depth() {
        assert!(is_read(r#"{"a":1,"b":{"a":[{"a":2}]}}"#));
        for twice in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#"{"known":1,"a":2,"known":3}"#,
            r#"{"x":{"a":1,"b":2,"a":3}}"#,
            r#"{"x":[0,{"a":{"b":1,"b":2}}]}"#,
        ] {
            assert!(!is_read(twice), "{twice}");
        }
        let many: Vec<_> = (0..40).map(|i| format!(r#""m{i}":{i}"#)).collect();
        assert!(is_read(&format!("{{{}}}", many.join(","))));
        assert!(!is_read(&format!(r#"{{{},"m30":0}}"#, many.join(","))));
        assert!(!is_read(&format!(r#"{{{},"m3":0}}"#, many.join(","))));
    }

    #[test]
    fn what_is_too_deep_or_too_much_is_an_error() {
        let nested =
            |depth: usize| format!(r#"{{"a":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert!(is_read(&nested(MOST_DEPTH - 1)));
        assert!(!is_read(&nested(MOST_DEPTH)));
        assert!(!is_read(&nested(5_000)));
        let members = |n: usize| {
            let all: Vec<_> = (0..n).map(|i| format!(r#""{i}":0"#)).collect();
            format!("{{{}}}", all.join(","))
        };
        assert!(is_read(&members(MOST_MEMBERS)));
        assert!(!is_read(&members(MOST_MEMBERS + 1)));
        let elements = |n: usize| format!(r#"{{"a":[{}0]}}"#, "0,".repeat(n - 1));
        assert!(is_read(&elements(MOST_MEMBERS)));
        assert!(!is_read(&elements(MOST_MEMBERS + 1)));
    }

    #[test]
    fn only_an_object_and_nothing_after_it_is_read() {
        for bad in [
            "",
            "[]",
            "1",
            "null",
            "{} {}",
            "{}x",
            "{\"a\":1,}",
            "{'a':1}",
            "\u{feff}{}",
        ] {
            assert!(!is_read(bad), "{bad}");
        }
        assert!(is_read(" {\"a\" : 1}\n"));
        assert!(!is_read(r#"{"a":"\ud800"}"#), "half a surrogate pair");
    }
}
