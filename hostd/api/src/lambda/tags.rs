//! A function's tags: Lambda's limits, and those this system reads itself.

use std::collections::BTreeMap;

use crate::error::ApiError;
use crate::wishes::Wishes;

/// Most tags of a function, and how long their keys and values may be, in characters.
const LIMIT: usize = 50;
const KEY_LIMIT: usize = 128;
const VALUE_LIMIT: usize = 256;

/// What is to become of a function's tags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagChange {
    /// Tags it gets, or that get this value.
    pub set: BTreeMap<String, String>,
    /// Keys of tags it loses; it need not have them.
    pub remove: Vec<String>,
}

impl TagChange {
    /// Makes the change to the tags as they are.
    ///
    /// # Errors
    /// When they would not be allowed afterwards.
    pub fn apply(&self, tags: &mut BTreeMap<String, String>) -> Result<(), ApiError> {
        tags.extend(self.set.clone());
        tags.retain(|key, _| !self.remove.contains(key));
        check(tags)
    }
}

/// Checks tags that are to be a function's.
pub fn check(tags: &BTreeMap<String, String>) -> Result<(), ApiError> {
    if tags.len() > LIMIT {
        return Err(invalid(format!("A function has at most {LIMIT} tags, these are {}", tags.len())));
    }
    for (key, value) in tags {
        if key.is_empty() || key.chars().count() > KEY_LIMIT || key.starts_with("aws:") {
            let key = key.escape_debug();
            return Err(invalid(format!("Tag key '{key}': give 1 to {KEY_LIMIT} characters, not aws:")));
        }
        // A warm-up event is bounded as all events are, and the environment's size is enough for it.
        let limit = if key == Wishes::WARM_UP { Wishes::WARM_UP_LIMIT } else { VALUE_LIMIT };
        if value.len() > limit {
            return Err(invalid(format!(
                "The value of tag '{key}' is too long: give at most {limit} characters"
            )));
        }
    }
    Wishes::of(tags).map(drop).map_err(invalid)
}

fn invalid(message: String) -> ApiError {
    ApiError::InvalidParameterValue(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(key: &str, value: &str) -> Result<(), String> {
        let tags = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        check(&tags).map_err(|error| error.to_string())
    }

    #[test]
    fn a_change_sets_and_removes_and_is_checked_as_a_whole() {
        let map = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect::<BTreeMap<_, _>>()
        };
        let mut tags = map(&[("a", "1"), ("b", "2")]);
        let change =
            TagChange { set: map(&[("b", "3"), ("c", "4")]), remove: vec!["a".to_owned(), "z".to_owned()] };
        change.apply(&mut tags).unwrap();
        assert_eq!(tags, map(&[("b", "3"), ("c", "4")]));
        let many = TagChange { set: (0..50).map(|at| (format!("k{at}"), String::new())).collect(), ..change };
        assert!(many.apply(&mut tags).is_err());
    }

    #[test]
    fn tags_of_others_are_free_and_ours_are_checked() {
        for (key, value) in [
            ("team", "a b"),
            ("mote:snapshot", "warm"),
            ("mote:snapshot", "init"),
            ("mote:restore", "faasnap"),
            ("mote:warmup", r#"{"n": [1, 2]}"#),
        ] {
            assert_eq!(checked(key, value), Ok(()), "{key}");
        }
        for (key, value, why) in [
            ("mote:snapshot", "cold", "give init or warm"),
            ("mote:restore", "quick", "give lazy, cached, reap or faasnap"),
            ("mote:warmup", "{", "no JSON"),
            ("mote:colour", "red", "there are mote:snapshot, mote:restore, mote:tenant and mote:warmup"),
            ("aws:x", "", "not aws:"),
            ("", "", "1 to 128"),
        ] {
            let error = checked(key, value).unwrap_err();
            assert!(error.contains(why), "{key}: {error}");
        }
        assert!(checked("x", &"y".repeat(257)).is_err());
        assert!(checked("mote:warmup", &format!("\"{}\"", "y".repeat(5000))).is_err());
        let many: BTreeMap<_, _> = (0..51).map(|at| (format!("k{at}"), String::new())).collect();
        assert!(check(&many).is_err());
    }
}
