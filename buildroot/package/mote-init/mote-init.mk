################################################################################
#
# mote-init
#
################################################################################

MOTE_INIT_VERSION = $(MOTE_VERSION)
# Made by cargo before.
MOTE_INIT_SOURCE =
MOTE_INIT_LICENSE = Apache-2.0
MOTE_INIT_REDISTRIBUTE = NO
MOTE_INIT_INSTALL_TARGET = NO
MOTE_INIT_INSTALL_IMAGES = YES

define MOTE_INIT_INSTALL_IMAGES_CMDS
	$(call mote-install-program,mote-init)
endef

$(eval $(generic-package))
