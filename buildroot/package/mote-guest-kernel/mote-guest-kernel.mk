################################################################################
#
# mote-guest-kernel
#
################################################################################

# The source of the appliance's kernel, configured for microVMs.
MOTE_GUEST_KERNEL_VERSION = $(LINUX_VERSION)
MOTE_GUEST_KERNEL_SITE = $(LINUX_SITE)
MOTE_GUEST_KERNEL_SOURCE = $(LINUX_SOURCE)
MOTE_GUEST_KERNEL_DL_SUBDIR = linux
MOTE_GUEST_KERNEL_LICENSE = GPL-2.0
MOTE_GUEST_KERNEL_LICENSE_FILES = $(LINUX_LICENSE_FILES)
MOTE_GUEST_KERNEL_INSTALL_TARGET = NO
MOTE_GUEST_KERNEL_INSTALL_IMAGES = YES
MOTE_GUEST_KERNEL_DEPENDENCIES = host-elfutils host-pkgconf
MOTE_GUEST_KERNEL_MAKE_ENV = $(LINUX_MAKE_ENV)
MOTE_GUEST_KERNEL_MAKE = $(BR2_MAKE)
MOTE_GUEST_KERNEL_KCONFIG_FILE = $(MOTE_CHECKOUT)/config/kernel/guest.defconfig
MOTE_GUEST_KERNEL_KCONFIG_DEPENDENCIES = $(LINUX_KCONFIG_DEPENDENCIES)
MOTE_GUEST_KERNEL_KCONFIG_OPTS = $(LINUX_KCONFIG_OPTS)

define MOTE_GUEST_KERNEL_BUILD_CMDS
	$(MOTE_GUEST_KERNEL_MAKE_ENV) $(BR2_MAKE) $(LINUX_MAKE_FLAGS) -C $(@D) vmlinux
endef

# An ELF file without symbols, which the monitor enters through its PVH note.
define MOTE_GUEST_KERNEL_INSTALL_IMAGES_CMDS
	$(INSTALL) -D -m 0644 $(@D)/vmlinux $(BINARIES_DIR)/vmlinux
	$(TARGET_CROSS)strip -s $(BINARIES_DIR)/vmlinux
endef

$(eval $(kconfig-package))
