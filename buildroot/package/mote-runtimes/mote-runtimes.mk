################################################################################
#
# mote-runtimes
#
################################################################################

MOTE_RUNTIMES_VERSION = $(MOTE_VERSION)
MOTE_RUNTIMES_SOURCE =
MOTE_RUNTIMES_REDISTRIBUTE = NO
MOTE_RUNTIMES_DEPENDENCIES = mote-agent host-erofs-utils
MOTE_RUNTIMES_INSTALL_TARGET = NO
MOTE_RUNTIMES_INSTALL_IMAGES = YES

MOTE_RUNTIMES_PREBUILT = $(call qstrip,$(BR2_PACKAGE_MOTE_RUNTIMES_PREBUILT))

ifeq ($(MOTE_RUNTIMES_PREBUILT),)
define MOTE_RUNTIMES_INSTALL_IMAGES_CMDS
	rm -rf $(MOTE_PARTS)/runtimes
	$(EXTRA_ENV) $(MOTE_IMAGE_TOOL) --root $(MOTE_CHECKOUT) runtimes \
		--binaries $(MOTE_PARTS)/bin --out $(MOTE_PARTS)/runtimes
endef
else
define MOTE_RUNTIMES_INSTALL_IMAGES_CMDS
	rm -rf $(MOTE_PARTS)/runtimes
	mkdir -p $(MOTE_PARTS)/runtimes
	$(INSTALL) -m 0644 $(MOTE_RUNTIMES_PREBUILT)/*.erofs $(MOTE_PARTS)/runtimes
endef
endif

$(eval $(generic-package))
