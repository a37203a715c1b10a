/* guest/routes.c - the control server's table of routes. */
#include "guest.h"

const route *const route_groups[] = {
    misc_routes,   exec_routes, process_routes, file_routes,  session_routes, git_routes, backup_routes,
    interp_routes, ws_routes,   pty_routes,     watch_routes, port_routes,    NULL,
};
