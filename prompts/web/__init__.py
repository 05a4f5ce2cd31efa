"""`arbiter prompt web`: the questions, and what goes on, in a browser on this machine.

callers   effects: whose a connection is, and how many each user may have
gate      pure: who may come in: host, origin, cookie and key
board     pure: what all pages see, and what one of them has not seen yet
views     pure: asks, links, connections, the log as JSON, worded by `prompts.render`
recordviews pure: decision records and their sums as JSON, worded by `prompts.recordwords`
console   pure: the state of it all: messages and requests in, messages to the daemon out
requests  pure: what a page may ask for, decoded strictly
commands  effects: `arbiter rules`, `arbiter links` as this user
app       effects: the routes (Starlette)
serve     effects: sockets, the daemon's connection, the clock, signals
static/   the page; uplot.* is uPlot 1.6.32, unchanged (MIT: uplot.LICENSE)
"""
