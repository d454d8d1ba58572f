-- Shared by both scripts: parses the arguments (`name=value` after `--`), seeds the random numbers of each thread,
-- and prints the figures at the end.

local threads = {}

function setup(thread)
   thread:set("thread_number", #threads + 1)
   table.insert(threads, thread)
end

function begin(args)
   local options = {}
   for _, argument in ipairs(args) do
      local name, value = argument:match("^(%w+)=(.*)$")
      options[name] = value
   end
   refused = 0
   -- The seed depends on the run and on the thread, so that each of them draws a different sequence of wallets.
   math.randomseed(tonumber(options.run, 16) % 2147483647 + thread_number)
   return options
end

function done(summary, latency, requests)
   local refused_by_all = 0
   for _, thread in ipairs(threads) do
      refused_by_all = refused_by_all + thread:get("refused")
   end
   local errors = summary.errors
   io.write(string.format(
      '\nfigures {"requests":%d,"seconds":%.6f,"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d,' ..
      '"refused":%d,"p50_ms":%.3f,"p99_ms":%.3f,"max_ms":%.3f}\n',
      summary.requests, summary.duration / 1e6, errors.connect, errors.read, errors.write, errors.timeout,
      errors.status, refused_by_all, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
