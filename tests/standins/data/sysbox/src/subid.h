/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SUBID_H
#define SUBID_H
/* Gives user sysbox its range in /etc/subuid and /etc/subgid, or ends the program saying why it can't. */
void allot_subids(void);
#endif
