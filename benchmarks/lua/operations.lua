-- Sends deposits or transfers, each with a new key, as single requests or in bulk requests.
-- Arguments: kind=deposit|transfer|hot-transfer run=ID wallets=N operations=N
-- (operations=1 uses the route of a single operation).

dofile(debug.getinfo(1, "S").source:match("@(.*/)") .. "common.lua")

function init(args)
   local options = begin(args)
   kind, wallets, operations = options.kind, tonumber(options.wallets), tonumber(options.operations)
   key = options.run .. "-" .. thread_number .. "-"
   key_number = 0
   head = " HTTP/1.1\r\nHost: " .. wrk.headers["Host"] .. "\r\nContent-Type: application/json\r\nContent-Length: "
   if operations > 1 then
      request, response = bulk_request, expect_each_created
   else
      request = single_request
   end
end

local function post(path, body)
   return "POST " .. path .. head .. #body .. "\r\n\r\n" .. body
end

local function next_key()
   key_number = key_number + 1
   return key .. key_number
end

local function draw_wallets()
   if kind == "deposit" then
      return math.random(0, wallets - 1)
   elseif kind == "hot-transfer" then
      return math.random(1, wallets - 1), 0
   end
   local sender = math.random(0, wallets - 1)
   return sender, (sender + math.random(1, wallets - 1)) % wallets
end

function single_request()
   local wallet, receiver = draw_wallets()
   if receiver then
      return post("/wallet/w" .. wallet .. "/transfer",
         '{"toWalletId":"w' .. receiver .. '","amount":"0.01","requestId":"' .. next_key() .. '"}')
   end
   return post("/wallet/w" .. wallet .. "/deposit", '{"amount":"12.5","requestId":"' .. next_key() .. '"}')
end

function bulk_request()
   local parts = {}
   for number = 1, operations do
      local wallet, receiver = draw_wallets()
      if receiver then
         parts[number] = '{"type":"transfer","walletId":"w' .. wallet .. '","toWalletId":"w' .. receiver ..
            '","amount":"0.01","requestId":"' .. next_key() .. '"}'
      else
         parts[number] = '{"type":"deposit","walletId":"w' .. wallet ..
            '","amount":"12.5","requestId":"' .. next_key() .. '"}'
      end
   end
   return post("/operations", '{"mode":"independent","operations":[' .. table.concat(parts, ",") .. "]}")
end

function expect_each_created(status, headers, body)
   local _, created = body:gsub('"status":201', "")
   refused = refused + operations - created
end
