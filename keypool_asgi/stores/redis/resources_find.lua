-- ARGV 3: id. Returns what is known of it.

local body, fresh = look(ARGV[3])
return fresh and cjson.encode(body) or false
