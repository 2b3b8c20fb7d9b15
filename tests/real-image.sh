#!/usr/bin/env bash
# real-image.sh [--large]: makes the layers of a real image, as NNN-name.tar.gz, and prints the folder
# that they are in, among the tools, so that only the first run takes long. Each layer is the content
# of one Debian package: 72 from 6 kB to 7 MB, and with --large 13 larger ones, up to 140 MB.
set -euo pipefail
# shellcheck source=tests/debian.sh
. "$(dirname "${BASH_SOURCE[0]}")/debian.sh"

# All of them are the same on every architecture.
packages='
  adduser autoconf automake autopoint bash-completion ca-certificates cowsay debconf debconf-i18n
  debian-archive-keyring debian-faq dh-autoreconf dictionaries-common doc-debian docbook-xsl
  fonts-dejavu-core fonts-hack fonts-inconsolata fonts-lato fonts-liberation fonts-noto-mono fortunes
  fortunes-min golang-golang-x-image-dev hicolor-icon-theme hwdata init-system-helpers
  intltool-debian iso-codes krb5-locales libc-l10n libjson-perl libmodule-build-perl libpam-runtime
  libsixel-examples libtest-simple-perl libtimedate-perl liburi-perl libwww-perl locales lsb-release
  manpages media-types mime-support ncurses-base ncurses-term netbase pci.ids po-debconf
  python3-click python3-docutils python3-jinja2 python3-pygments python3-reportbug python3-requests
  python3-six python3-urllib3 qt5-doc-html readline-common reportbug sensible-utils sgml-base
  tasksel-data tzdata ucf usb.ids vim-common wamerican wbritish wfrench wngerman xml-core'

large='
  blender-data emacs-el fonts-noto-cjk fonts-noto-core gimp-data golang-1.19-src libreoffice-common
  linux-source-6.1 openjdk-17-source papirus-icon-theme python3.11-doc rust-doc vim-runtime'

cache=$LONGSHORE_TOOLS/layers
if [ "${1:-}" = --large ]; then
  packages+=$large
  cache+=-large
fi

make_layers() {
  local debs=$LONGSHORE_TOOLS/debs package number=0 layer
  if ! have apt-get || ! have dpkg-deb; then
    die "no apt here, so no packages to make layers from"
  fi
  [ -s "$LONGSHORE_TOOLS/debian/bookworm/sources.list" ] || suite_update bookworm
  say "fetching packages of Debian bookworm for the layers"
  # shellcheck disable=SC2086 # several packages
  if ! suite_download bookworm "$debs" $packages; then
    suite_update bookworm # our list was too old
    suite_download bookworm "$debs" $packages
  fi
  rm -rf "$cache.new"
  mkdir "$cache.new"
  for package in $packages; do
    number=$((number + 1))
    layer=$cache.new/$(printf '%03d-%s.tar.gz' "$number" "$package")
    dpkg-deb --fsys-tarfile "$debs/$package"_*.deb | gzip -n >"$layer"
  done
  rm -rf "$debs"
  mv "$cache.new" "$cache"
}

lock_tools
[ -d "$cache" ] || make_layers
echo "$cache"
