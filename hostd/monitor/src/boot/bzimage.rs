//! The setup header of a bzImage (Linux x86 boot protocol, 64-bit entry).

/// Where the setup header starts in the file and in `boot_params`.
pub(super) const HEADER_OFFSET: usize = 0x1f1;

/// First and last protocol version whose fields we rely on: 2.12 brought `xloadflags`.
const OLDEST_VERSION: u16 = 0x020c;
const MAGIC_OFFSET: usize = 0x202;
const SECTOR: u64 = 512;
const DEFAULT_SETUP_SECTORS: u8 = 4;
/// `XLF_KERNEL_64`: there is a 64-bit entry point.
const HAS_64_BIT_ENTRY: u16 = 1;
const ENTRY_64_OFFSET: u64 = 0x200;
/// Where a bzImage is loaded.
const LOAD_ADDRESS: u64 = 0x10_0000;

/// A bzImage that cannot be booted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BzImageError {
    /// The header is cut off.
    #[error("File ends inside the setup header at offset {offset:#x}")]
    Truncated {
        /// Where it was being read.
        offset: usize,
    },
    /// It speaks a boot protocol from before 2012.
    #[error("Boot protocol version is {0:#06x}, needed is 0x020c")]
    Version(u16),
    /// It cannot be entered in long mode.
    #[error("It has no 64-bit entry point (xloadflags {0:#x})")]
    No64BitEntry(u16),
    /// There is nothing behind the setup code.
    #[error("File has {length} bytes, its setup code alone {setup}")]
    NoKernel {
        /// Of the file.
        length: u64,
        /// Of the setup code.
        setup: u64,
    },
    /// Unpacking it needs more memory than there is below 4 GiB.
    #[error("It needs memory up to {needed:#x}, there is memory up to {found:#x}")]
    Memory {
        /// First address after what it needs.
        needed: u64,
        /// First address after the memory.
        found: u64,
    },
}

/// The setup header, to be handed to the kernel, and the fields that matter to the loader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SetupHeader {
    /// Bytes from [`HEADER_OFFSET`] on.
    pub(super) raw: Vec<u8>,
    setup_sectors: u8,
    preferred_address: u64,
    init_size: u32,
}

/// What to load, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) address: u64,
    pub(super) offset: u64,
    pub(super) length: usize,
    pub(super) entry: u64,
}

pub(super) fn is_bzimage(head: &[u8]) -> bool {
    head.get(MAGIC_OFFSET..).is_some_and(|rest| rest.starts_with(b"HdrS"))
        && head.get(0x1fe..0x200) == Some(&[0x55, 0xaa])
}

fn array<const N: usize>(head: &[u8], offset: usize) -> Result<[u8; N], BzImageError> {
    let found = head.get(offset..offset + N).and_then(|bytes| bytes.try_into().ok());
    found.ok_or(BzImageError::Truncated { offset })
}

impl SetupHeader {
    /// Reads the header out of the file's start.
    pub(super) fn parse(head: &[u8]) -> Result<Self, BzImageError> {
        let version = u16::from_le_bytes(array(head, 0x206)?);
        if version < OLDEST_VERSION {
            return Err(BzImageError::Version(version));
        }
        let flags = u16::from_le_bytes(array(head, 0x236)?);
        if flags & HAS_64_BIT_ENTRY == 0 {
            return Err(BzImageError::No64BitEntry(flags));
        }
        // The jump at 0x200 skips the header: its operand says where the header ends.
        let [jump] = array(head, 0x201)?;
        let end = 0x202 + usize::from(jump);
        let raw = head.get(HEADER_OFFSET..end).ok_or(BzImageError::Truncated { offset: end })?;
        let [sectors] = array(head, HEADER_OFFSET)?;
        Ok(Self {
            raw: raw.to_vec(),
            setup_sectors: if sectors == 0 { DEFAULT_SETUP_SECTORS } else { sectors },
            preferred_address: u64::from_le_bytes(array(head, 0x258)?),
            init_size: u32::from_le_bytes(array(head, 0x260)?),
        })
    }

    /// Where the kernel of a file of `length` bytes goes in memory of `memory` bytes.
    pub(super) fn plan(&self, length: u64, memory: u64) -> Result<Plan, BzImageError> {
        let setup = (u64::from(self.setup_sectors) + 1) * SECTOR;
        let kernel = length.checked_sub(setup).filter(|kernel| *kernel > ENTRY_64_OFFSET);
        let kernel = kernel.ok_or(BzImageError::NoKernel { length, setup })?;
        // It unpacks itself to its preferred address and needs `init_size` there; and it has to lie somewhere.
        let unpacked = self.preferred_address.max(LOAD_ADDRESS).saturating_add(u64::from(self.init_size));
        let needed = unpacked.max(LOAD_ADDRESS.saturating_add(kernel));
        if needed > memory {
            return Err(BzImageError::Memory { needed, found: memory });
        }
        let length = usize::try_from(kernel).map_err(|_| BzImageError::NoKernel { length, setup })?;
        Ok(Plan { address: LOAD_ADDRESS, offset: setup, length, entry: LOAD_ADDRESS + ENTRY_64_OFFSET })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head() -> Vec<u8> {
        let mut head = vec![0u8; 4096];
        head[0x1f1] = 7;
        head[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        head[0x201] = 0x6a;
        head[0x202..0x206].copy_from_slice(b"HdrS");
        head[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
        head[0x236] = 1;
        head[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
        head[0x260..0x264].copy_from_slice(&0x200_0000u32.to_le_bytes());
        head
    }

    #[test]
    fn plan_follows_the_header() {
        assert!(is_bzimage(&head()));
        let header = SetupHeader::parse(&head()).unwrap();
        assert_eq!(header.raw.len(), 0x202 + 0x6a - 0x1f1);
        let plan = header.plan(100_000, 128 << 20).unwrap();
        assert_eq!(plan, Plan { address: 0x10_0000, offset: 4096, length: 95_904, entry: 0x10_0200 });
        assert_eq!(
            header.plan(100_000, 32 << 20),
            Err(BzImageError::Memory { needed: 0x300_0000, found: 32 << 20 })
        );
        assert_eq!(header.plan(4096, 128 << 20), Err(BzImageError::NoKernel { length: 4096, setup: 4096 }));
    }

    #[test]
    fn old_and_32_bit_kernels_are_refused() {
        let mut old = head();
        old[0x206] = 0x0b;
        assert_eq!(SetupHeader::parse(&old), Err(BzImageError::Version(0x020b)));
        let mut narrow = head();
        narrow[0x236] = 0;
        assert_eq!(SetupHeader::parse(&narrow), Err(BzImageError::No64BitEntry(0)));
        assert!(matches!(SetupHeader::parse(&head()[..0x210]), Err(BzImageError::Truncated { .. })));
    }

    proptest! {
        #[test]
        fn wild_headers_never_panic(noise in proptest::collection::vec((0x1f0usize..0x270, any::<u8>()), 0..20), cut in 0usize..4096, length in any::<u64>(), memory in any::<u64>()) {
            let mut head = head();
            for (position, value) in noise {
                head[position] = value;
            }
            if let Ok(header) = SetupHeader::parse(&head[..cut]) {
                let _ = header.plan(length, memory);
            }
        }
    }
}
