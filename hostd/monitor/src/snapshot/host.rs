//! What of this host matters to a snapshot.

use std::arch::x86_64::{__cpuid, CpuidResult};
use std::fmt;

use serde::{Deserialize, Serialize};

/// A processor model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuModel {
    /// The twelve letters of CPUID leaf 0.
    pub vendor: String,
    /// Family, extended family included.
    pub family: u32,
    /// Model, extended model included.
    pub model: u32,
    /// Stepping.
    pub stepping: u32,
}

impl fmt::Display for CpuModel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}/{}/{}", self.vendor, self.family, self.model, self.stepping)
    }
}

impl CpuModel {
    /// Decodes CPUID leaves 0 and 1.
    fn decode(leaf0: CpuidResult, leaf1: CpuidResult) -> Self {
        let letters: Vec<u8> =
            [leaf0.ebx, leaf0.edx, leaf0.ecx].iter().flat_map(|register| register.to_le_bytes()).collect();
        let base_family = leaf1.eax >> 8 & 0xf;
        let family = if base_family == 0xf { base_family + (leaf1.eax >> 20 & 0xff) } else { base_family };
        let high_model = if base_family >= 6 { leaf1.eax >> 16 & 0xf } else { 0 };
        Self {
            vendor: String::from_utf8_lossy(&letters).trim_end_matches('\0').to_owned(),
            family,
            model: high_model << 4 | (leaf1.eax >> 4 & 0xf),
            stepping: leaf1.eax & 0xf,
        }
    }
}

/// What a snapshot is checked against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// Version of this monitor.
    pub monitor_version: String,
    /// Release of the running kernel.
    pub host_kernel: String,
    /// The processor.
    pub cpu: CpuModel,
}

impl HostFacts {
    /// Looks at the host this runs on.
    pub fn gather() -> Self {
        let kernel = rustix::system::uname();
        Self {
            monitor_version: env!("CARGO_PKG_VERSION").to_owned(),
            host_kernel: kernel.release().to_string_lossy().into_owned(),
            cpu: CpuModel::decode(__cpuid(0), __cpuid(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_numbers_are_put_together_as_the_manuals_say() {
        let leaf0 = CpuidResult { eax: 0x10, ebx: 0x6874_7541, edx: 0x6974_6e65, ecx: 0x444d_4163 };
        let leaf1 = CpuidResult { eax: 0x00a2_0f12, ebx: 0, ecx: 0, edx: 0 };
        let cpu = CpuModel::decode(leaf0, leaf1);
        assert_eq!(cpu.to_string(), "AuthenticAMD 25/33/2");
        let leaf1 = CpuidResult { eax: 0x0009_06ea, ebx: 0, ecx: 0, edx: 0 };
        assert_eq!(CpuModel::decode(leaf0, leaf1).model, 0x9e);
    }
}
