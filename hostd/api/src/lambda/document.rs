//! A request's JSON document, taken apart field by field so that an error can name the field.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::ApiError;

/// Longest text of a field that is not code, bytes. The environment, the largest of them, has at most 4 KiB, which
/// escaping may multiply by six.
const FIELD_LIMIT: usize = 64 * 1024;

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is read.
    Read,
    /// It changes nothing here and is accepted.
    Ignored,
    /// It would change what the function does or who may do what: accepted only when blank. The text says what to do.
    Refused(&'static str),
}

/// The fields a document may have.
pub type Table = [(&'static str, Use)];

/// A JSON object whose values are still text.
#[derive(Debug)]
pub struct Document<'a> {
    fields: BTreeMap<Cow<'a, str>, &'a RawValue>,
    /// Prefix of its fields' names in messages, such as `Code.`.
    path: &'static str,
}

impl<'a> Document<'a> {
    /// Parses a request's body and checks its fields against `table`.
    pub fn parse(body: &'a [u8], table: &Table) -> Result<Self, ApiError> {
        let fields = serde_json::from_slice(body).map_err(|error| {
            ApiError::InvalidRequestContent(format!("Could not parse request body into json: {error}"))
        })?;
        Self { fields, path: "" }.checked(table)
    }

    /// The object in field `name`, its fields checked against `table`; `None` when absent or null.
    pub fn object(
        &self,
        name: &str,
        path: &'static str,
        table: &Table,
    ) -> Result<Option<Document<'a>>, ApiError> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        let fields = serde_json::from_str(raw.get()).map_err(|error| self.invalid(name, &error))?;
        Document { fields, path }.checked(table).map(Some)
    }

    /// The value of field `name`; `None` when absent or null.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        if raw.get().len() > FIELD_LIMIT {
            return Err(ApiError::InvalidParameterValue(format!(
                "Field '{}{name}' is longer than {FIELD_LIMIT} bytes",
                self.path
            )));
        }
        serde_json::from_str(raw.get()).map(Some).map_err(|error| self.invalid(name, &error))
    }

    /// The string in field `name`, whatever its length, not copied if it need not be; `None` when absent or null.
    pub fn text(&self, name: &str) -> Result<Option<Cow<'a, str>>, ApiError> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        if let Ok(plain) = serde_json::from_str::<&'a str>(raw.get()) {
            return Ok(Some(Cow::Borrowed(plain)));
        }
        serde_json::from_str(raw.get())
            .map(|text| Some(Cow::Owned(text)))
            .map_err(|error| self.invalid(name, &error))
    }

    fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.fields.get(name).copied().filter(|raw| raw.get() != "null")
    }

    fn checked(self, table: &Table) -> Result<Self, ApiError> {
        for (name, raw) in &self.fields {
            let path = self.path;
            match table.iter().find(|(known, _)| known == name).map(|(_, use_)| *use_) {
                Some(Use::Read | Use::Ignored) => {}
                Some(Use::Refused(instead)) => {
                    if !is_blank(raw) {
                        return Err(ApiError::InvalidParameterValue(format!(
                            "Field '{path}{name}' is not supported here: {instead}"
                        )));
                    }
                }
                None => {
                    let known: Vec<&str> =
                        table.iter().filter(|(_, use_)| *use_ == Use::Read).map(|(name, _)| *name).collect();
                    return Err(ApiError::InvalidParameterValue(format!(
                        "Field '{path}{}' is not known: known are {}",
                        shortened(name),
                        known.join(", ")
                    )));
                }
            }
        }
        Ok(self)
    }

    fn invalid(&self, name: &str, error: &serde_json::Error) -> ApiError {
        ApiError::InvalidParameterValue(format!(
            "Field '{}{name}' is not what it should be: {error}",
            self.path
        ))
    }
}

/// Tools send empty values for what they do not use: null, `""`, `[]`, and objects of nothing but those.
fn is_blank(raw: &RawValue) -> bool {
    fn blank(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.values().all(blank),
            Value::Bool(_) | Value::Number(_) => false,
        }
    }
    raw.get().len() <= FIELD_LIMIT && serde_json::from_str(raw.get()).is_ok_and(|value| blank(&value))
}

fn shortened(text: &str) -> &str {
    text.get(..text.floor_char_boundary(64)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &Table = &[
        ("Name", Use::Read),
        ("Size", Use::Read),
        ("Code", Use::Read),
        ("Tags", Use::Ignored),
        ("Layers", Use::Refused("put them into the zip")),
    ];

    fn error(body: &str) -> ApiError {
        Document::parse(body.as_bytes(), TABLE).unwrap_err()
    }

    #[test]
    fn fields_are_named_in_errors() {
        assert!(matches!(error("{"), ApiError::InvalidRequestContent(_)));
        assert!(matches!(error("[]"), ApiError::InvalidRequestContent(_)));
        assert!(
            error(r#"{"Nmae":1}"#).to_string().contains("'Nmae' is not known: known are Name, Size, Code")
        );
        assert!(
            error(r#"{"Layers":["x"]}"#)
                .to_string()
                .contains("'Layers' is not supported here: put them into")
        );
        let document = Document::parse(br#"{"Size":"big","Name":"\u0041\/","Tags":7}"#, TABLE).unwrap();
        assert!(document.get::<u32>("Size").unwrap_err().to_string().contains("'Size'"));
        assert_eq!(document.text("Name").unwrap().unwrap(), "A/");
        assert_eq!(document.get::<u32>("Code").unwrap(), None);
    }

    #[test]
    fn blank_is_absent() {
        for blank in ["null", "[]", "{}", r#""""#, r#"{"Ids":[],"More":{"x":null}}"#] {
            let body = format!(r#"{{"Layers":{blank},"Name":null}}"#);
            let document = Document::parse(body.as_bytes(), TABLE).unwrap();
            assert_eq!(document.get::<String>("Name").unwrap(), None);
        }
        for solid in ["false", "0", "[null]", r#"{"a":1}"#] {
            assert!(
                error(&format!(r#"{{"Layers":{solid}}}"#)).to_string().contains("not supported"),
                "{solid}"
            );
        }
    }

    #[test]
    fn inner_objects_have_their_own_table() {
        let document = Document::parse(br#"{"Code":{"ZipFile":"eA==","S3Key":"k"}}"#, TABLE).unwrap();
        let inner: &Table = &[("ZipFile", Use::Read), ("S3Key", Use::Refused("upload it"))];
        let error = document.object("Code", "Code.", inner).unwrap_err();
        assert!(error.to_string().contains("'Code.S3Key'"), "{error}");
        let not_an_object = Document::parse(br#"{"Code":7}"#, TABLE).unwrap();
        assert!(not_an_object.object("Code", "Code.", inner).is_err());
    }
}
