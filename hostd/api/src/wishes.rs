//! What a function's tags say of how it is to be served.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::types::RestoreMode;

/// What the owner of a function wishes for; without a wish the configuration of the system applies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// `mote:snapshot`: whether it is restored as a recorded call left it (`warm`) or as it was initialised (`init`).
    pub warm: Option<bool>,
    /// `mote:restore`: how its memory comes back.
    pub restore: Option<RestoreMode>,
    /// `mote:warmup`: the event of the call that is recorded, JSON; without it the first real call is.
    pub warm_up: Option<Bytes>,
    /// `mote:tenant`: the tenant in whose network it runs.
    pub tenant: Option<String>,
}

const PREFIX: &str = "mote:";
const SNAPSHOT: &str = "mote:snapshot";
const RESTORE: &str = "mote:restore";
const TENANT: &str = "mote:tenant";

/// The tenant of functions without a wish.
const DEFAULT_TENANT: &str = "default";

impl Wishes {
    /// The tag with the warm-up event.
    pub const WARM_UP: &str = "mote:warmup";
    /// Its longest value, bytes.
    pub const WARM_UP_LIMIT: usize = 4096;

    /// Reads them out of a function's tags.
    ///
    /// # Errors
    /// What to write instead.
    pub fn of(tags: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut wishes = Self::default();
        for (key, value) in tags.iter().filter(|(key, _)| key.starts_with(PREFIX)) {
            match key.as_str() {
                SNAPSHOT => {
                    wishes.warm = match value.as_str() {
                        "warm" => Some(true),
                        "init" => Some(false),
                        _ => return Err(format!("Value '{value}' of tag '{SNAPSHOT}': give init or warm")),
                    };
                }
                RESTORE => {
                    let mode = RestoreMode::ALL.into_iter().find(|mode| mode.name() == value);
                    let refuse = || {
                        let names = RestoreMode::ALL.map(RestoreMode::name);
                        let (last, others) = names.split_last().unwrap_or((&"", &[]));
                        let others = others.join(", ");
                        format!("Value '{value}' of tag '{RESTORE}': give {others} or {last}")
                    };
                    wishes.restore = Some(mode.ok_or_else(refuse)?);
                }
                TENANT => wishes.tenant = Some(value.clone()),
                Self::WARM_UP => {
                    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(value) {
                        return Err(format!("The value of tag '{}' is no JSON: {error}", Self::WARM_UP));
                    }
                    wishes.warm_up = Some(Bytes::copy_from_slice(value.as_bytes()));
                }
                _ => {
                    return Err(format!(
                        "Tag '{}' is not known: there are {SNAPSHOT}, {RESTORE}, {TENANT} and {}",
                        key.escape_debug(),
                        Self::WARM_UP
                    ));
                }
            }
        }
        Ok(wishes)
    }

    /// Name of the tenant.
    pub fn tenant(&self) -> &str {
        self.tenant.as_deref().unwrap_or(DEFAULT_TENANT)
    }
}
