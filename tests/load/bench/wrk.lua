-- Sends the requests of a file in turn, each thread from a different position. Between the two parts of a request it inserts an idempotency
-- key that is never used again. Format: length of the first part, a space, length of the second, a line break, both parts.
local threads = 0

function setup(thread)
  thread:set("number", threads)
  thread:set("run", os.time())
  threads = threads + 1
end

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  requests, sent = {}, 0
  while true do
    local first, second = file:read("*n", "*n")
    if not first then break end
    file:read(1)
    table.insert(requests, {file:read(first), second > 0 and file:read(second)})
  end
  file:close()
  position = math.floor(number * #requests / 8)
end

function request()
  position = position % #requests + 1
  local it = requests[position]
  if not it[2] then return it[1] end
  sent = sent + 1
  return it[1] .. run .. "-" .. number .. "-" .. sent .. it[2]
end

function done(summary, latency, _)
  local e = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %.6f, "p50": %.3f, "p95": %.3f, "p99": %.3f, "max": %.3f, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(95) / 1e3,
    latency:percentile(99) / 1e3, latency.max / 1e3, e.status, e.connect + e.read + e.write + e.timeout))
end
