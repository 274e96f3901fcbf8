# Makes a small image of a tree of unpacked packages, whose own scripts have not run. $1: the tree.
set -eu
cd "$1"
find usr/share/ca-certificates -name '*.crt' | sort | xargs cat >etc/ssl/certs/ca-certificates.crt
ln -sf /etc/ssl/certs/ca-certificates.crt usr/lib/ssl/cert.pem
mkdir -p proc root run sys
echo 'root:x:0:0:root:/root:/bin/sh' >etc/passwd
echo 'root:x:0:' >etc/group
mkdir keep
mv usr/bin/python3.11 usr/bin/nsenter usr/bin/busybox keep/
rm -rf tmp/* usr/bin usr/sbin usr/lib/*/gconv usr/lib/python3.11/pydoc_data usr/lib/python3.11/test
mv keep usr/bin
ln -s python3.11 usr/bin/python3
mkdir usr/sbin
find usr/share -mindepth 1 -maxdepth 1 ! -name doc -exec rm -r {} +
find usr/share/doc ! -type d ! -name copyright -delete
find usr/share/doc -depth -type d -empty -delete
find etc var -mindepth 1 -maxdepth 1 ! -name ssl ! -name passwd ! -name group ! -name netconfig -exec rm -r {} +
chroot . /usr/bin/busybox --install -s /usr/bin 2>/dev/null || test -x usr/bin/sh
chroot . python3 -m compileall -q --invalidation-mode unchecked-hash /usr/lib/python3.11
