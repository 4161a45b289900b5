//! Whether a configuration, a kernel's or buildroot's, still says what was asked for.
//!
//! Kconfig drops symbols without a word when a dependency is missing or a name is gone in a newer kernel. A
//! kernel that silently lacks KVM is found much later and much harder than here.

use std::collections::BTreeMap;
use std::fmt;

/// What the names of symbols begin with: the kernel's, buildroot's.
const PREFIXES: [&str; 2] = ["CONFIG_", "BR2_"];

/// A symbol that was asked for and is not in the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// `CONFIG_…` or `BR2_…`.
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

/// Symbols of `defconfig` that the full configuration `config` does not honour. Said twice, the later one counts.
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
    let known = |name: &str| PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    match line.strip_prefix("# ") {
        Some(comment) => {
            let name = comment.strip_suffix(" is not set")?;
            known(name).then_some((name, "n"))
        }
        None => line.split_once('=').filter(|(name, _)| known(name)),
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
    fn a_fragment_behind_it_has_the_last_word() {
        let config = "# BR2_A is not set\nBR2_B=\"x\"\n";
        assert_eq!(dropped("BR2_A=y\nBR2_B=\"x\"\n# BR2_A is not set\n", config), []);
        assert_eq!(dropped("BR2_A=y\nBR2_B=\"x\"\n", config).len(), 1);
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
