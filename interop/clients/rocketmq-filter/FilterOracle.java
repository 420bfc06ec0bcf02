import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.StringReader;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import org.apache.rocketmq.filter.FilterFactory;
import org.apache.rocketmq.filter.expression.ComparisonExpression;
import org.apache.rocketmq.filter.expression.EvaluationContext;
import org.apache.rocketmq.filter.expression.Expression;
import org.apache.rocketmq.filter.parser.SelectorParser;

/**
 * What RocketMQ's own filter says: a line in is an expression and any number of property sets, separated by tabs; a set
 * is name:value,name:value,... and every text is base64. A line out is `refused`, or `accepted` or `trailing` (accepted
 * though text is left over) and a letter for each set: T, F, N (null), E (an exception).
 */
public final class FilterOracle {
    public static void main(String[] arguments) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] fields = line.split("\t");
            System.out.println(answer(text(fields[0]), fields));
            System.out.flush();
        }
    }

    private static String answer(String sql, String[] fields) {
        Expression expression;
        try {
            expression = FilterFactory.INSTANCE.get("SQL92").compile(sql);
        } catch (Throwable refused) {
            return "refused";
        }
        StringBuilder answer = new StringBuilder(isWhole(sql) ? "accepted " : "trailing ");
        for (int i = 1; i < fields.length; i++) {
            answer.append(evaluate(expression, properties(fields[i])));
        }
        return answer.toString();
    }

    private static boolean isWhole(String sql) {
        ComparisonExpression.CONVERT_STRING_EXPRESSIONS.set(true);
        try {
            SelectorParser parser = new SelectorParser(new StringReader(sql));
            parser.JmsSelector();
            return parser.getNextToken().kind == 0;
        } catch (Throwable failed) {
            return false;
        } finally {
            ComparisonExpression.CONVERT_STRING_EXPRESSIONS.remove();
        }
    }

    private static char evaluate(Expression expression, Map<String, String> properties) {
        Object value;
        try {
            value = expression.evaluate(new EvaluationContext() {
                public Object get(String name) {
                    return properties.get(name);
                }

                public Map<String, Object> keyValues() {
                    return new HashMap<>(properties);
                }
            });
        } catch (Throwable failed) {
            return 'E';
        }
        return value == null ? 'N' : Boolean.TRUE.equals(value) ? 'T' : 'F';
    }

    private static Map<String, String> properties(String set) {
        Map<String, String> properties = new HashMap<>();
        for (String pair : set.split(",")) {
            int colon = pair.indexOf(':');
            if (colon >= 0) {
                properties.put(text(pair.substring(0, colon)), text(pair.substring(colon + 1)));
            }
        }
        return properties;
    }

    private static String text(String base64) {
        return new String(Base64.getDecoder().decode(base64), StandardCharsets.UTF_8);
    }
}
