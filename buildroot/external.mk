# The checkout, of which this folder is a part.
MOTE_CHECKOUT = $(abspath $(BR2_EXTERNAL_MOTE_PATH)/..)
MOTE_VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' $(MOTE_CHECKOUT)/Cargo.toml)

# Programs that cargo made: mote-init, hostd, mote-agent, and the assembler, `image`.
MOTE_BINARIES = $(abspath $(call qstrip,$(BR2_MOTE_BINARIES)))
export MOTE_IMAGE_TOOL ?= $(MOTE_BINARIES)/image

# What the assembler takes, beside the kernels, which go where images are.
MOTE_PARTS = $(BINARIES_DIR)/parts

# Puts one of cargo's programs where the assembler finds it. One that needs libraries would not start there.
# $(1): its name
define mote-install-program
	$(Q)test -f $(MOTE_BINARIES)/$(1) || { \
		echo "$(MOTE_BINARIES)/$(1) is missing: cargo build --release -p $(1)" >&2; exit 1; }
	$(Q)headers=$$(readelf --program-headers --wide $(MOTE_BINARIES)/$(1)) || exit 1; \
		case "$$headers" in *INTERP*) echo "$(MOTE_BINARIES)/$(1) is not static" >&2; exit 1 ;; esac
	$(INSTALL) -D -m 0755 $(MOTE_BINARIES)/$(1) $(MOTE_PARTS)/bin/$(1)
endef

include $(sort $(wildcard $(BR2_EXTERNAL_MOTE_PATH)/package/*/*.mk))
