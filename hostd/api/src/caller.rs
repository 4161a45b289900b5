//! Who a request says it is from: the `Credential` of its SigV4 signature.

use axum::http::{HeaderMap, header};

use crate::types::Caller;

/// Longest access key id taken, characters; AWS allows 128.
const KEY_LIMIT: usize = 128;

impl Caller {
    /// Reads the `Authorization` header. Whatever is missing or strange is `None`: nothing is verified yet, so
    /// nothing is refused either.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let credential = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("AWS4-HMAC-SHA256"))
            .and_then(|fields| {
                fields.split([',', ' ']).find_map(|field| field.trim().strip_prefix("Credential="))
            });
        let Some(credential) = credential else { return Self::default() };
        // key id / date / region / service / aws4_request
        let mut parts = credential.split('/');
        let mut next = || {
            parts.next().map(str::to_owned).filter(|part| {
                !part.is_empty()
                    && part.len() <= KEY_LIMIT
                    && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            })
        };
        let access_key_id = next();
        let _date = next();
        Self { access_key_id, region: next() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    fn of(value: &[u8]) -> Caller {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.insert(header::AUTHORIZATION, value);
        }
        Caller::of(&headers)
    }

    #[test]
    fn the_credential_names_the_caller() {
        let caller = of(b"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/lambda/aws4_request, \
                          SignedHeaders=host;x-amz-date, Signature=5d672d79c15b13162d9279b0855cfba6");
        assert_eq!(caller.access_key_id.as_deref(), Some("AKIDEXAMPLE"));
        assert_eq!(caller.region.as_deref(), Some("us-east-1"));
        for strange in [
            "Bearer x",
            "AWS4-HMAC-SHA256",
            "AWS4-HMAC-SHA256 Credential=",
            "AWS4-HMAC-SHA256 Credential=a b/",
        ] {
            assert_eq!(of(strange.as_bytes()).region, None, "{strange}");
        }
        assert_eq!(of(b"AWS4-HMAC-SHA256 Credential=../../etc/x/y").access_key_id, None);
    }

    proptest! {
        #[test]
        fn anything_is_taken(value in prop::collection::vec(any::<u8>(), 0..200)) {
            let caller = of(&value);
            prop_assert!(caller.access_key_id.is_none_or(|key| !key.is_empty() && key.len() <= KEY_LIMIT));
        }
    }
}
