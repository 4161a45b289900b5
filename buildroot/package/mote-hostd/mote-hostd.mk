################################################################################
#
# mote-hostd
#
################################################################################

MOTE_HOSTD_VERSION = $(MOTE_VERSION)
# Made by cargo before.
MOTE_HOSTD_SOURCE =
MOTE_HOSTD_LICENSE = Apache-2.0
MOTE_HOSTD_REDISTRIBUTE = NO
MOTE_HOSTD_INSTALL_TARGET = NO
MOTE_HOSTD_INSTALL_IMAGES = YES

define MOTE_HOSTD_INSTALL_IMAGES_CMDS
	$(call mote-install-program,hostd)
endef

$(eval $(generic-package))
