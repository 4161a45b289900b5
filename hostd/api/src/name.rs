//! Names of functions, in every form Lambda takes them: plain, with a qualifier, partial ARN, ARN.

use percent_encoding::percent_decode_str;

use crate::error::ApiError;
use crate::types::{Identity, LATEST};

/// Longest function name.
const NAME_LIMIT: usize = 64;

/// Longest qualifier.
const QUALIFIER_LIMIT: usize = 128;

/// Digits of an account id.
const ACCOUNT_DIGITS: usize = 12;

/// A function as a caller names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    pub name: String,
    pub qualifier: Option<String>,
}

impl Reference {
    /// Parses what stands where a function's name is expected. Region and account are read and not compared: clients
    /// take them from their own configuration.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let invalid = || {
            ApiError::InvalidParameterValue(format!(
                "Value '{text}' at 'functionName' is no function name: give 1 to {NAME_LIMIT} of a-z A-Z 0-9 - _, \
                 or a function's ARN"
            ))
        };
        let mut parts: Vec<&str> = text.split(':').collect();
        if parts.first() == Some(&"arn") {
            // A whole ARN leaves nothing out; it might be of something that is no function.
            let ["arn", partition, "lambda", region, account, "function", ..] = parts.as_slice() else {
                return Err(invalid());
            };
            if !(is_partition(partition) && is_region(region) && is_account(account)) {
                return Err(invalid());
            }
            parts.drain(..3);
        }
        let mut skip = |is_it: fn(&str) -> bool| {
            if parts.len() > 1 && parts.first().is_some_and(|part| is_it(part)) {
                parts.remove(0);
            }
        };
        skip(is_region);
        skip(is_account);
        skip(|part| part == "function");
        let (name, qualifier) = match parts.as_slice() {
            [name] => (*name, None),
            [name, qualifier] => (*name, Some(*qualifier)),
            _ => return Err(invalid()),
        };
        if name.is_empty() || name.len() > NAME_LIMIT || !name.bytes().all(is_name_byte) {
            return Err(invalid());
        }
        if let Some(qualifier) = qualifier {
            check_qualifier(qualifier)?;
        }
        Ok(Self { name: name.to_owned(), qualifier: qualifier.map(str::to_owned) })
    }

    /// Parses a percent-encoded path segment and a query's `Qualifier`.
    pub fn of_request(segment: &str, query: Option<&str>) -> Result<Self, ApiError> {
        let text = percent_decode_str(segment).decode_utf8().map_err(|_| {
            ApiError::InvalidParameterValue("The function name in the path is not UTF-8".to_owned())
        })?;
        let mut reference = Self::parse(&text)?;
        let given = parameter(query, "Qualifier");
        if let Some(given) = given.filter(|given| !given.is_empty()) {
            check_qualifier(&given)?;
            if reference.qualifier.as_ref().is_some_and(|own| *own != given) {
                return Err(ApiError::InvalidParameterValue(
                    "The qualifier in the function name and the parameter 'Qualifier' differ: give one of them"
                        .to_owned(),
                ));
            }
            reference.qualifier = Some(given);
        }
        Ok(reference)
    }

    /// The function's ARN as the caller meant it: with the qualifier if there was one.
    pub fn arn(&self, identity: &Identity) -> String {
        let arn = identity.function_arn(&self.name);
        match &self.qualifier {
            Some(qualifier) => format!("{arn}:{qualifier}"),
            None => arn,
        }
    }

    /// Refuses versions and aliases: there is only `$LATEST`.
    pub fn latest(self, identity: &Identity) -> Result<Self, ApiError> {
        match self.qualifier.as_deref() {
            None | Some(LATEST) => Ok(self),
            Some(_) => Err(ApiError::function_not_found(&self.arn(identity))),
        }
    }
}

/// Value of a query parameter, decoded; the first if there are several.
pub(crate) fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    form_urlencoded::parse(query?.as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

fn check_qualifier(qualifier: &str) -> Result<(), ApiError> {
    let fine = !qualifier.is_empty()
        && qualifier.len() <= QUALIFIER_LIMIT
        && (qualifier == LATEST || qualifier.bytes().all(is_name_byte));
    if fine {
        return Ok(());
    }
    Err(ApiError::InvalidParameterValue(format!(
        "Value '{qualifier}' at 'qualifier' is no version and no alias: leave it out or give {LATEST}"
    )))
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

fn is_partition(text: &str) -> bool {
    text.strip_prefix("aws")
        .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-'))
}

/// Such as `us-east-1` or `us-gov-west-1`.
fn is_region(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let letters = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase());
    matches!(parts.as_slice(), [land, middle @ .., number]
        if land.len() == 2 && letters(land) && !middle.is_empty() && middle.iter().all(letters)
            && number.len() == 1 && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_account(text: &str) -> bool {
    text.len() == ACCOUNT_DIGITS && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_form_of_a_name() {
        let longest = "a".repeat(64);
        for (text, name, qualifier) in [
            ("hello", "hello", None),
            ("hello:$LATEST", "hello", Some("$LATEST")),
            ("hello:prod", "hello", Some("prod")),
            ("function", "function", None),
            ("function:hello", "hello", None),
            ("123456789012:function:hello", "hello", None),
            ("123456789012:function:hello:7", "hello", Some("7")),
            ("123456789012", "123456789012", None),
            ("us-east-1:123456789012:function:hello", "hello", None),
            ("arn:aws:lambda:us-east-1:123456789012:function:hello", "hello", None),
            ("arn:aws-us-gov:lambda:us-gov-west-1:123456789012:function:a_b-C:x", "a_b-C", Some("x")),
            (longest.as_str(), longest.as_str(), None),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(
                (reference.name.as_str(), reference.qualifier.as_deref()),
                (name, qualifier),
                "{text}"
            );
        }
        let too_long = "a".repeat(65);
        for text in [
            "",
            " ",
            "a b",
            "a/b",
            "../x",
            "ä",
            "a.b",
            ":",
            "a:",
            ":a",
            "a:b:c",
            "a:b c",
            "arn:aws:s3:::bucket",
            "arn:x:lambda:us-east-1:123456789012:function:hello",
            "arn:aws:lambda:us-east-1:123456789012:layer:hello",
            "$LATEST",
            "a:$latest",
            &too_long,
        ] {
            let error = Reference::parse(text).unwrap_err();
            assert!(matches!(error, ApiError::InvalidParameterValue(_)), "{text}: {error:?}");
        }
    }

    #[test]
    fn path_and_query_together() {
        let parse = |segment, query| Reference::of_request(segment, query);
        let arn = "arn%3Aaws%3Alambda%3Aus-east-1%3A123456789012%3Afunction%3Ahello";
        assert_eq!(parse(arn, None).unwrap().name, "hello");
        assert_eq!(
            parse("hello", Some("Qualifier=%24LATEST")).unwrap().qualifier.as_deref(),
            Some("$LATEST")
        );
        assert_eq!(parse("hello", Some("Qualifier=")).unwrap().qualifier, None);
        assert!(parse("hello%3Aa", Some("Qualifier=b")).is_err());
        assert!(parse("hel%FFlo", None).is_err());
        let identity = Identity::default();
        assert!(parse("hello%3A%24LATEST", None).unwrap().latest(&identity).is_ok());
        let error = parse("hello", Some("Qualifier=1")).unwrap().latest(&identity).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Function not found: arn:aws:lambda:us-east-1:000000000000:function:hello:1"
        );
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_safe(text in "\\PC{0,200}", query in "\\PC{0,50}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert!(!reference.name.is_empty() && reference.name.len() <= NAME_LIMIT);
                prop_assert!(reference.name.bytes().all(is_name_byte));
            }
            let _ = Reference::of_request(&text, Some(&query));
        }

        #[test]
        fn an_arn_names_what_it_was_made_of(name in "[a-zA-Z0-9_-]{1,64}") {
            let arn = Identity::default().function_arn(&name);
            prop_assert_eq!(Reference::parse(&arn).unwrap().name, name);
        }
    }
}
