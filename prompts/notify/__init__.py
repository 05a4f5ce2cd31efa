"""`arbiter prompt notify`: asks as desktop notifications, org.freedesktop.Notifications 1.2.

`notes` says what a notification shows, `desk` which ones there should be and what a click means
(both pure), `bus` talks to the notification server, `opener` finds a terminal for the full
question, `shell` connects them to the daemon.
"""
