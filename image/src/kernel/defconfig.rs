//! Whether a kernel configuration still says what was asked for.
//!
//! Kconfig drops symbols without a word when a dependency is missing or a name is gone in a newer kernel. A
//! kernel that silently lacks KVM is found much later and much harder than here.

use std::collections::BTreeMap;
use std::fmt;

/// A symbol that was asked for and is not in the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// `CONFIG_…`.
    pub symbol: String,
    /// What was asked: `y`, `m`, a number, a string, or `n`.
    pub wanted: String,
    /// What is there; `n` when absent.
    pub found: String,
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} wanted {}, got {}", self.symbol, self.wanted, self.found)
    }
}

/// Symbols of `defconfig` that the full configuration `config` does not honour.
#[must_use]
pub fn dropped(defconfig: &str, config: &str) -> Vec<Dropped> {
    let found = symbols(config);
    symbols(defconfig)
        .into_iter()
        .filter_map(|(symbol, wanted)| {
            let found = found.get(symbol).copied().unwrap_or("n");
            (found != wanted).then(|| Dropped {
                symbol: symbol.to_owned(),
                wanted: wanted.to_owned(),
                found: found.to_owned(),
            })
        })
        .collect()
}

fn symbols(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(symbol).collect()
}

fn symbol(line: &str) -> Option<(&str, &str)> {
    match line.strip_prefix("# ") {
        Some(comment) => {
            let name = comment.strip_suffix(" is not set")?;
            name.starts_with("CONFIG_").then_some((name, "n"))
        }
        None => line.split_once('=').filter(|(name, _)| name.starts_with("CONFIG_")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str =
        "#\n# Automatically generated\n#\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=32\nCONFIG_S=\"a=b\"\n";

    #[test]
    fn an_honoured_defconfig_drops_nothing() {
        assert_eq!(dropped("CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=32\nCONFIG_S=\"a=b\"\n", CONFIG), []);
        assert_eq!(dropped("# CONFIG_GONE is not set\n", CONFIG), [], "off and unknown is off");
    }

    #[test]
    fn every_kind_of_loss_is_named() {
        let lost = dropped("CONFIG_B=y\nCONFIG_GONE=y\n# CONFIG_A is not set\nCONFIG_N=64\n", CONFIG);
        let text: Vec<String> = lost.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "CONFIG_A wanted n, got y",
                "CONFIG_B wanted y, got n",
                "CONFIG_GONE wanted y, got n",
                "CONFIG_N wanted 64, got 32",
            ]
        );
    }
}
