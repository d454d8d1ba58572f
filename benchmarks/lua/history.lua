-- Reads the first history page of randomly drawn wallets.
-- Arguments: run=ID prefix=TEXT wallets=N page=N (the number of events on a full page).

dofile(debug.getinfo(1, "S").source:match("@(.*/)") .. "common.lua")

function init(args)
   local options = begin(args)
   prefix, wallets, page = options.prefix, tonumber(options.wallets), tonumber(options.page)
   tail = "/history HTTP/1.1\r\nHost: " .. wrk.headers["Host"] .. "\r\n\r\n"
end

function request()
   return "GET /wallet/" .. prefix .. math.random(0, wallets - 1) .. tail
end

-- Every page must be full, because a shorter one is faster to create.
function response(status, headers, body)
   local _, events = body:gsub('"id":', "")
   if events ~= page then
      refused = refused + 1
   end
end
