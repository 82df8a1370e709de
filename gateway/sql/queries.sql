-- insert_user --
-- summary: INSERT users
INSERT INTO users (email, name, password_hash, role)
VALUES ($1, $2, $3, 'user')
RETURNING id, email, name, password_hash, role

-- find_user_by_email --
-- summary: SELECT users
SELECT id, email, name, password_hash, role FROM users WHERE email = $1

-- find_user --
-- summary: SELECT users
SELECT id, email, name, password_hash, role FROM users WHERE id = $1
