################################################################################
#
# mote-agent
#
################################################################################

MOTE_AGENT_VERSION = $(MOTE_VERSION)
# Made by cargo before.
MOTE_AGENT_SOURCE =
MOTE_AGENT_LICENSE = Apache-2.0
MOTE_AGENT_REDISTRIBUTE = NO
MOTE_AGENT_INSTALL_TARGET = NO
MOTE_AGENT_INSTALL_IMAGES = YES

define MOTE_AGENT_INSTALL_IMAGES_CMDS
	$(call mote-install-program,mote-agent)
endef

$(eval $(generic-package))
